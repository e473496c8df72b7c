// The rounds' operations on 256-bit registers: 8 lanes of 32 bits or 4 of 64 (AVX2).
#pragma once

#include <immintrin.h>

#include "digest/kernel.h"

namespace lunsync {
namespace {

constexpr size_t kPrefetchBytes = 256;

inline __m256i load256(const uint8_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

// The same order of bytes in both halves; words as _mm_set_epi32 has them.
inline __m256i both_halves(int w3, int w2, int w1, int w0) {
  return _mm256_broadcastsi128_si256(_mm_set_epi32(w3, w2, w1, w0));
}

inline void prefetch(const uint8_t* from) {
  _mm_prefetch(reinterpret_cast<const char*>(from + kPrefetchBytes), _MM_HINT_T0);
}

struct Bits256 {
  using T = __m256i;
  static T load(const void* from) { return _mm256_load_si256(static_cast<const T*>(from)); }
  static void store(void* to, T x) { _mm256_store_si256(static_cast<T*>(to), x); }
  static T bit_and(T x, T y) { return _mm256_and_si256(x, y); }
  static T bit_or(T x, T y) { return _mm256_or_si256(x, y); }
  static T bit_xor(T x, T y) { return _mm256_xor_si256(x, y); }
  static T parity(T x, T y, T z) { return bit_xor(bit_xor(x, y), z); }
  static T choose(T x, T y, T z) { return bit_xor(z, bit_and(x, bit_xor(y, z))); }
  static T majority(T x, T y, T z) { return bit_or(bit_and(x, y), bit_and(z, bit_or(x, y))); }
  static T md5_i(T x, T y, T z) { return bit_xor(y, bit_or(x, bit_xor(z, _mm256_set1_epi32(-1)))); }
};

struct Lanes8x32 : Bits256 {
  static constexpr size_t lanes = 8;
  static T set1(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  static T add(T x, T y) { return _mm256_add_epi32(x, y); }
  template <int n>
  static T rotl(T x) {
    if constexpr (n == 16) {
      return _mm256_shuffle_epi8(x, both_halves(0x0d0c0f0e, 0x09080b0a, 0x05040706, 0x01000302));
    }
    return bit_or(_mm256_slli_epi32(x, n), _mm256_srli_epi32(x, 32 - n));
  }
  template <int n>
  static T rotr(T x) { return rotl<32 - n>(x); }
  template <int n>
  static T shr(T x) { return _mm256_srli_epi32(x, n); }

  template <bool big>
  [[gnu::always_inline]] static inline void load_block(T (&out)[16], const uint8_t* const* rows, size_t at) {
    const T swap = both_halves(0x0c0d0e0f, 0x08090a0b, 0x04050607, 0x00010203);
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; ++i) prefetch(rows[i] + at);
#pragma GCC unroll 2
    for (size_t half = 0; half < 2; ++half) {
      T quad[8];  // [4g + i]: of rows 4g … 4g + 3, words i and 4 + i
#pragma GCC unroll 2
      for (size_t g = 0; g < 2; ++g) {
        T row[4];
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; ++i) {
          row[i] = load256(rows[4 * g + i] + at + 32 * half);
          if constexpr (big) row[i] = _mm256_shuffle_epi8(row[i], swap);
        }
        const T low01 = _mm256_unpacklo_epi32(row[0], row[1]);
        const T high01 = _mm256_unpackhi_epi32(row[0], row[1]);
        const T low23 = _mm256_unpacklo_epi32(row[2], row[3]);
        const T high23 = _mm256_unpackhi_epi32(row[2], row[3]);
        quad[4 * g] = _mm256_unpacklo_epi64(low01, low23);
        quad[4 * g + 1] = _mm256_unpackhi_epi64(low01, low23);
        quad[4 * g + 2] = _mm256_unpacklo_epi64(high01, high23);
        quad[4 * g + 3] = _mm256_unpackhi_epi64(high01, high23);
      }
#pragma GCC unroll 4
      for (size_t i = 0; i < 4; ++i) {
        out[8 * half + i] = _mm256_permute2x128_si256(quad[i], quad[4 + i], 0x20);
        out[8 * half + 4 + i] = _mm256_permute2x128_si256(quad[i], quad[4 + i], 0x31);
      }
    }
  }
};

struct Lanes4x64 : Bits256 {
  static constexpr size_t lanes = 4;
  static T set1(uint64_t x) { return _mm256_set1_epi64x(static_cast<long long>(x)); }
  static T add(T x, T y) { return _mm256_add_epi64(x, y); }
  template <int n>
  static T rotl(T x) { return bit_or(_mm256_slli_epi64(x, n), _mm256_srli_epi64(x, 64 - n)); }
  template <int n>
  static T rotr(T x) {
    if constexpr (n == 8) {
      return _mm256_shuffle_epi8(x, both_halves(0x080f0e0d, 0x0c0b0a09, 0x00070605, 0x04030201));
    }
    return rotl<64 - n>(x);
  }
  template <int n>
  static T shr(T x) { return _mm256_srli_epi64(x, n); }

  template <bool big>
  [[gnu::always_inline]] static inline void load_block(T (&out)[16], const uint8_t* const* rows, size_t at) {
    const T swap = both_halves(0x08090a0b, 0x0c0d0e0f, 0x00010203, 0x04050607);
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; ++i) {
      prefetch(rows[i] + at);
      prefetch(rows[i] + at + 64);
    }
#pragma GCC unroll 4
    for (size_t quarter = 0; quarter < 4; ++quarter) {
      T row[4];
#pragma GCC unroll 4
      for (size_t i = 0; i < 4; ++i) {
        row[i] = load256(rows[i] + at + 32 * quarter);
        if constexpr (big) row[i] = _mm256_shuffle_epi8(row[i], swap);
      }
      const T low01 = _mm256_unpacklo_epi64(row[0], row[1]);
      const T high01 = _mm256_unpackhi_epi64(row[0], row[1]);
      const T low23 = _mm256_unpacklo_epi64(row[2], row[3]);
      const T high23 = _mm256_unpackhi_epi64(row[2], row[3]);
      out[4 * quarter] = _mm256_permute2x128_si256(low01, low23, 0x20);
      out[4 * quarter + 1] = _mm256_permute2x128_si256(high01, high23, 0x20);
      out[4 * quarter + 2] = _mm256_permute2x128_si256(low01, low23, 0x31);
      out[4 * quarter + 3] = _mm256_permute2x128_si256(high01, high23, 0x31);
    }
  }
};

}  // namespace
}  // namespace lunsync
