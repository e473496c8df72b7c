// Tables of the two reflected CRCs for a byte at a time and for sixteen at once (slicing): entry [k][b] is
// what byte b contributes when k more bytes follow it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace lunsync {

constexpr uint64_t kCrc32cPolynomial = 0x82f63b78;           // 1EDC6F41h, reflected
constexpr uint64_t kCrc64Polynomial = 0xc96c5795d7870f42u;   // 42F0E1EBA9EA3693h, reflected

template <class Word>
using CrcTable = std::array<std::array<Word, 256>, 16>;

template <class Word>
constexpr CrcTable<Word> make_crc_table(Word polynomial) {
  CrcTable<Word> table{};
  for (size_t byte = 0; byte < 256; ++byte) {
    Word crc = static_cast<Word>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? polynomial : 0);
    table[0][byte] = crc;
  }
  for (size_t k = 1; k < 16; ++k) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const Word crc = table[k - 1][byte];
      table[k][byte] = (crc >> 8) ^ table[0][crc & 0xff];
    }
  }
  return table;
}

// Both continue the CRC of what came before; 0 at the start. Any CPU.
uint32_t crc32c_portable(uint32_t crc, const uint8_t* data, size_t bytes);
uint64_t crc64_portable(uint64_t crc, const uint8_t* data, size_t bytes);

}  // namespace lunsync
