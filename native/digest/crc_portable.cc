// CRC-32C and CRC-64/XZ by tables, sixteen bytes at once.
#include <cstring>

#include "digest/crc_tables.h"
#include "digest/kernels.h"

namespace lunsync {

namespace {

alignas(64) constexpr CrcTable<uint32_t> kTable32 = make_crc_table<uint32_t>(kCrc32cPolynomial);
alignas(64) constexpr CrcTable<uint64_t> kTable64 = make_crc_table<uint64_t>(kCrc64Polynomial);

uint64_t load_little_endian(const uint8_t* data) {
  uint64_t x;
  std::memcpy(&x, data, 8);
  return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? x : __builtin_bswap64(x);
}

template <class Word>
Word slicing(const CrcTable<Word>& table, Word crc, const uint8_t* data, size_t bytes) {
  crc = ~crc;
  for (; bytes >= 16; bytes -= 16, data += 16) {
    const uint64_t x = load_little_endian(data) ^ crc;
    const uint64_t y = load_little_endian(data + 8);
    crc = 0;
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; ++i) {
      crc ^= table[15 - i][x >> (8 * i) & 0xff] ^ table[7 - i][y >> (8 * i) & 0xff];
    }
  }
  for (; bytes > 0; --bytes, ++data) crc = (crc >> 8) ^ table[0][(crc ^ *data) & 0xff];
  return ~crc;
}

bool always(const CpuFeatures&) { return true; }

}  // namespace

uint32_t crc32c_portable(uint32_t crc, const uint8_t* data, size_t bytes) {
  return slicing<uint32_t>(kTable32, crc, data, bytes);
}

uint64_t crc64_portable(uint64_t crc, const uint8_t* data, size_t bytes) {
  return slicing<uint64_t>(kTable64, crc, data, bytes);
}

const Kernel kCrc32cPortable = crc_kernel<crc32c_portable>("portable", Algorithm::crc32c, always);
const Kernel kCrc64Portable = crc_kernel<crc64_portable>("portable", Algorithm::crc64, always);

}  // namespace lunsync
