// Folding of reflected CRCs by carry-less multiplication: what the 128-bit and the 512-bit kernel share.
//
// A 128-bit register holds a polynomial with its highest coefficient in bit 0. Folding carries it over the D
// bits that follow: its first half times x^(D+64), its second half times x^D, both modulo the CRC's
// polynomial. The product of two reflected numbers is reflected in 127 bits, thus times x in 128: the powers
// are one less.
#pragma once

#include <immintrin.h>

#include "digest/crc_tables.h"
#include "digest/kernel.h"

namespace lunsync {
namespace {

inline __m128i load128(const uint8_t* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}

inline uint64_t load64(const uint8_t* from) {
  return static_cast<uint64_t>(_mm_cvtsi128_si64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}

// CRC-32C without the inversions, by the CPU's own instruction.
inline uint32_t crc32c_instruction(uint32_t crc, const uint8_t* data, size_t bytes) {
  uint64_t wide = crc;
  for (; bytes >= 8; bytes -= 8, data += 8) {
    wide = _mm_crc32_u64(wide, load64(data));
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

  static Word plain(Word crc, const uint8_t* data, size_t bytes) {
    return ~crc32c_instruction(~crc, data, bytes);
  }

  // The CRC's register after the 16 bytes that `x` stands for.
  static Word reduce(__m128i x) {
    const uint64_t first = _mm_crc32_u64(0, static_cast<uint64_t>(_mm_cvtsi128_si64(x)));
    return static_cast<Word>(_mm_crc32_u64(first, static_cast<uint64_t>(_mm_extract_epi64(x, 1))));
  }

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

  // The quotient of x^128 by the polynomial, without its highest coefficient, reflected in 64 bits.
  static constexpr uint64_t quotient() {
    uint64_t remainder = kCrc64Polynomial;  // reflected: its highest coefficient is bit 0
    uint64_t result = 0;
    for (int i = 0; i < 64; ++i) {
      const bool divides = (remainder & 1) != 0;
      result |= static_cast<uint64_t>(divides) << i;
      remainder = (remainder >> 1) ^ (divides ? kCrc64Polynomial : 0);
    }
    return result;
  }

  // Times x^64, modulo the polynomial (Barrett): the tables would have to come from memory for every extent.
  static Word reduce(__m128i x) {
    const __m128i k = _mm_set_epi64x(static_cast<long long>(quotient()), static_cast<long long>(power(127)));
    const __m128i p = _mm_cvtsi64_si128(static_cast<long long>(kCrc64Polynomial));
    x = _mm_xor_si128(_mm_clmulepi64_si128(x, k, 0x00), _mm_srli_si128(x, 8));
    const __m128i high = _mm_slli_epi64(_mm_clmulepi64_si128(x, k, 0x10), 1);
    const __m128i multiple = _mm_clmulepi64_si128(_mm_xor_si128(x, high), p, 0x00);
    const uint64_t low = static_cast<uint64_t>(_mm_extract_epi64(multiple, 1)) << 1 |
                         static_cast<uint64_t>(_mm_cvtsi128_si64(multiple)) >> 63;
    return static_cast<uint64_t>(_mm_extract_epi64(x, 1)) ^ low;
  }

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
  const __m128i first = _mm_clmulepi64_si128(x, k, 0x00);
  const __m128i second = _mm_clmulepi64_si128(x, k, 0x11);
  return _mm_xor_si128(_mm_xor_si128(first, second), next);
}

// The register's CRC, continued over what follows it: 16 bytes at once, then the rest.
template <class R>
inline typename R::Word fold_end(__m128i x, const uint8_t* data, size_t bytes) {
  for (; bytes >= 16; bytes -= 16, data += 16) x = fold128<R, 128>(x, load128(data));
  const typename R::Word crc = ~R::reduce(x);
  return R::plain(crc, data, bytes);
}

}  // namespace
}  // namespace lunsync
