#include "digest/encode.h"

#include <algorithm>
#include <cstring>

#include "digest/aes.h"
#include "digest/cpu.h"
#include "digest/digest.h"

namespace lunsync {

namespace {

constexpr size_t kSha256Bytes = 32;

struct Aes {
  AesBlocks encrypt = aes128_encrypt_portable;
  AesBlocks decrypt = aes128_decrypt_portable;
};

const Aes& aes() {
  static const Aes chosen = [] {
    Aes aes;
#if defined(__x86_64__)
    if (cpu_features().aes) aes = {aes128_encrypt_ni, aes128_decrypt_ni};
#endif
    return aes;
  }();
  return chosen;
}

}  // namespace

void derive_keys(const uint8_t* identifiers, size_t identifier_bytes, size_t count, uint8_t* keys) {
  constexpr size_t kGroup = 64;
  static thread_local Batch batch(Algorithm::sha256, kGroup);
  for (size_t done = 0; done < count; done += kGroup) {
    const size_t lanes = std::min(kGroup, count - done);
    const uint8_t* rows[kGroup];
    uint8_t digests[kGroup * kSha256Bytes];
    for (size_t i = 0; i < lanes; ++i) rows[i] = identifiers + (done + i) * identifier_bytes;
    batch.start(lanes);
    batch.update(rows, identifier_bytes);
    batch.finish(digests, kSha256Bytes);
    for (size_t i = 0; i < lanes; ++i) {
      std::memcpy(keys + (done + i) * kKeyBytes, digests + i * kSha256Bytes, kKeyBytes);
    }
  }
}

void aes128_encrypt(const uint8_t* keys, const uint8_t* in, size_t count, uint8_t* out) {
  aes().encrypt(keys, in, count, out);
}

void aes128_decrypt(const uint8_t* keys, const uint8_t* in, size_t count, uint8_t* out) {
  aes().decrypt(keys, in, count, out);
}

void encoding_block(const uint8_t initial_value[16], uint64_t lba, uint8_t block[16]) {
  for (size_t i = 0; i < 8; ++i) {
    const uint8_t high = initial_value[i];  // read first: block may be initial_value itself
    block[i] = initial_value[8 + i];
    block[8 + i] = static_cast<uint8_t>(high ^ static_cast<uint8_t>(lba >> (56 - 8 * i)));
  }
}

bool is_zero(const uint8_t* data, size_t bytes) {
  // Pieces small enough to stop early where data begins, large enough for the vectors the compiler makes of
  // them.
  constexpr size_t kPiece = 256;
  for (; bytes >= kPiece; bytes -= kPiece, data += kPiece) {
    uint64_t words[kPiece / 8];
    std::memcpy(words, data, kPiece);
    uint64_t any = 0;
    for (const uint64_t word : words) any |= word;
    if (any != 0) return false;
  }
  uint8_t any = 0;
  for (size_t i = 0; i < bytes; ++i) any |= data[i];
  return any == 0;
}

}  // namespace lunsync
