// Encoding of identifiers with an initial value (docs/protocol.md, "Encoding").
//
//   K = the first 16 bytes of SHA-256(identifier)
//   B = low 8 bytes of the initial value ‖ LBA of the extent, both big-endian, the high 8 bytes of the
//       initial value XORed into the second half as well
//   encoded value = AES-128(K, B)
//
// AES runs on AES-NI where the CPU has it, else on a portable implementation with the same results.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lunsync {

constexpr size_t kKeyBytes = 16;
constexpr size_t kBlockBytes = 16;

// keys[i * 16 …] = first 16 bytes of SHA-256(identifiers[i * identifier_bytes …]), for i < count.
void derive_keys(const uint8_t* identifiers, size_t identifier_bytes, size_t count, uint8_t* keys);

// out[i] = AES-128-encrypt / -decrypt(keys[i], in[i]); blocks of 16 bytes; in and out may be the same.
void aes128_encrypt(const uint8_t* keys, const uint8_t* in, size_t count, uint8_t* out);
void aes128_decrypt(const uint8_t* keys, const uint8_t* in, size_t count, uint8_t* out);

// The block B of the extent at `lba`; initial_value is 16 bytes, big-endian (its high 8 bytes first).
void encoding_block(const uint8_t initial_value[16], uint64_t lba, uint8_t block[16]);

// True if all bytes are zero.
bool is_zero(const uint8_t* data, size_t bytes);

}  // namespace lunsync
