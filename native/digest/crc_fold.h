// Folding of reflected CRCs by carry-less multiplication: what the 128-bit and the 512-bit kernel share.
//
// A 128-bit register holds a polynomial with its highest coefficient in bit 0. Folding carries it over the D bits
// that follow: its first half times x^(D+64), its second half times x^D, both modulo the CRC's polynomial. The
// product of two reflected numbers is reflected in 127 bits, thus times x in 128: the powers are one less.
#pragma once

#include <immintrin.h>

#include "digest/crc_tables.h"
#include "digest/kernel.h"

namespace lunsync {
namespace {

inline __m128i load128(const uint8_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }

// CRC-32C without the inversions, by the CPU's own instruction.
inline uint32_t crc32c_instruction(uint32_t crc, const uint8_t* data, size_t bytes) {
  uint64_t wide = crc;
  for (; bytes >= 8; bytes -= 8, data += 8) {
    wide = _mm_crc32_u64(wide, static_cast<uint64_t>(_mm_cvtsi128_si64(_mm_loadl_epi64(
                                   reinterpret_cast<const __m128i*>(data)))));
  }
  crc = static_cast<uint32_t>(wide);
  for (; bytes > 0; --bytes, ++data) crc = _mm_crc32_u8(crc, *data);
  return crc;
}

struct Crc32cRules {
  using Word = uint32_t;

  // x^n modulo the polynomial, reflected in 64 bits.
  static constexpr uint64_t power(unsigned n) {
    uint32_t x = 0x80000000u;
    for (; n > 0; --n) x = (x >> 1) ^ ((x & 1) != 0 ? static_cast<uint32_t>(kCrc32cPolynomial) : 0);
    return static_cast<uint64_t>(x) << 32;
  }

  static Word plain(Word crc, const uint8_t* data, size_t bytes) { return ~crc32c_instruction(~crc, data, bytes); }
  static constexpr size_t fold_min = 512;
};

struct Crc64Rules {
  using Word = uint64_t;

  static constexpr uint64_t power(unsigned n) {
    uint64_t x = uint64_t{1} << 63;
    for (; n > 0; --n) x = (x >> 1) ^ ((x & 1) != 0 ? kCrc64Polynomial : 0);
    return x;
  }

  static Word plain(Word crc, const uint8_t* data, size_t bytes) { return crc64_portable(crc, data, bytes); }
  static constexpr size_t fold_min = 64;
};

// The multipliers for the first and the second half that carry a register over `bits`.
template <class R, unsigned bits>
struct Over {
  static constexpr uint64_t first = R::power(bits + 63);
  static constexpr uint64_t second = R::power(bits - 1);
};

template <class R, unsigned bits>
inline __m128i fold128(__m128i x, __m128i next) {
  const __m128i k = _mm_set_epi64x(static_cast<long long>(Over<R, bits>::second),
                                   static_cast<long long>(Over<R, bits>::first));
  return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x, k, 0x00), _mm_clmulepi64_si128(x, k, 0x11)), next);
}

// The register's CRC, continued over what follows it: 16 bytes at once, then the rest.
template <class R>
inline typename R::Word fold_end(__m128i x, const uint8_t* data, size_t bytes) {
  for (; bytes >= 16; bytes -= 16, data += 16) x = fold128<R, 128>(x, load128(data));
  // The register stands for 16 bytes of message before which the CRC's register was zero: ~0 inverted.
  alignas(16) uint8_t last[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(last), x);
  const typename R::Word crc = R::plain(static_cast<typename R::Word>(~uint64_t{0}), last, sizeof last);
  return R::plain(crc, data, bytes);
}

}  // namespace
}  // namespace lunsync
