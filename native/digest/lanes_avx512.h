// The rounds' operations on 512-bit registers: 16 lanes of 32 bits or 8 of 64 (AVX-512 F, BW, VL, DQ).
#pragma once

#include <immintrin.h>

#include "digest/kernel.h"

namespace lunsync {
namespace {

// How far ahead of its use data is fetched: many rows at once are more streams than the hardware follows.
constexpr size_t kPrefetchBytes = 256;

// The three-operand operations of vpternlog: bit i of the number is the result for the operands' bits i.
constexpr int kTernaryParity = 0x96;
constexpr int kTernaryChoose = 0xca;
constexpr int kTernaryMajority = 0xe8;
constexpr int kTernaryMd5I = 0x39;  // y ^ (x | ~z)

struct Bits512 {
  using T = __m512i;
  static T load(const void* from) { return _mm512_load_si512(from); }
  static void store(void* to, T x) { _mm512_store_si512(to, x); }
  static T bit_xor(T x, T y) { return _mm512_xor_si512(x, y); }
  static T parity(T x, T y, T z) { return _mm512_ternarylogic_epi32(x, y, z, kTernaryParity); }
  static T choose(T x, T y, T z) { return _mm512_ternarylogic_epi32(x, y, z, kTernaryChoose); }
  static T majority(T x, T y, T z) { return _mm512_ternarylogic_epi32(x, y, z, kTernaryMajority); }
  static T md5_i(T x, T y, T z) { return _mm512_ternarylogic_epi32(x, y, z, kTernaryMd5I); }
};

struct Lanes16x32 : Bits512 {
  static constexpr size_t lanes = 16;
  static T set1(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static T add(T x, T y) { return _mm512_add_epi32(x, y); }
  template <int n>
  static T rotl(T x) { return _mm512_rol_epi32(x, n); }
  template <int n>
  static T rotr(T x) { return _mm512_ror_epi32(x, n); }
  template <int n>
  static T shr(T x) { return _mm512_srli_epi32(x, n); }

  // Transposes 16 rows of 16 words: within quarters of registers first, then the quarters.
  template <bool big>
  [[gnu::always_inline]] static inline void load_block(T (&out)[16], const uint8_t* const* rows, size_t at) {
    const T swap = _mm512_set4_epi32(0x0c0d0e0f, 0x08090a0b, 0x04050607, 0x00010203);
    T quad[16];  // [4g + i]: of rows 4g … 4g + 3, words i, 4 + i, 8 + i, 12 + i
#pragma GCC unroll 4
    for (size_t g = 0; g < 4; ++g) {
      T row[4];
#pragma GCC unroll 4
      for (size_t i = 0; i < 4; ++i) {
        const uint8_t* from = rows[4 * g + i] + at;
        row[i] = _mm512_loadu_si512(from);
        _mm_prefetch(reinterpret_cast<const char*>(from + kPrefetchBytes), _MM_HINT_T0);
        if constexpr (big) row[i] = _mm512_shuffle_epi8(row[i], swap);
      }
      const T low01 = _mm512_unpacklo_epi32(row[0], row[1]);
      const T high01 = _mm512_unpackhi_epi32(row[0], row[1]);
      const T low23 = _mm512_unpacklo_epi32(row[2], row[3]);
      const T high23 = _mm512_unpackhi_epi32(row[2], row[3]);
      quad[4 * g] = _mm512_unpacklo_epi64(low01, low23);
      quad[4 * g + 1] = _mm512_unpackhi_epi64(low01, low23);
      quad[4 * g + 2] = _mm512_unpacklo_epi64(high01, high23);
      quad[4 * g + 3] = _mm512_unpackhi_epi64(high01, high23);
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; ++i) {
      const T even01 = _mm512_shuffle_i32x4(quad[i], quad[4 + i], 0x88);  // quarters 0 and 2 of both
      const T odd01 = _mm512_shuffle_i32x4(quad[i], quad[4 + i], 0xdd);   // quarters 1 and 3
      const T even23 = _mm512_shuffle_i32x4(quad[8 + i], quad[12 + i], 0x88);
      const T odd23 = _mm512_shuffle_i32x4(quad[8 + i], quad[12 + i], 0xdd);
      out[i] = _mm512_shuffle_i32x4(even01, even23, 0x88);
      out[8 + i] = _mm512_shuffle_i32x4(even01, even23, 0xdd);
      out[4 + i] = _mm512_shuffle_i32x4(odd01, odd23, 0x88);
      out[12 + i] = _mm512_shuffle_i32x4(odd01, odd23, 0xdd);
    }
  }
};

struct Lanes8x64 : Bits512 {
  static constexpr size_t lanes = 8;
  static T set1(uint64_t x) { return _mm512_set1_epi64(static_cast<long long>(x)); }
  static T add(T x, T y) { return _mm512_add_epi64(x, y); }
  template <int n>
  static T rotl(T x) { return _mm512_rol_epi64(x, n); }
  template <int n>
  static T rotr(T x) { return _mm512_ror_epi64(x, n); }
  template <int n>
  static T shr(T x) { return _mm512_srli_epi64(x, n); }

  template <bool big>
  [[gnu::always_inline]] static inline void load_block(T (&out)[16], const uint8_t* const* rows, size_t at) {
    const T swap = _mm512_set4_epi32(0x08090a0b, 0x0c0d0e0f, 0x00010203, 0x04050607);
#pragma GCC unroll 2
    for (size_t half = 0; half < 2; ++half) {
      T pair[8];  // [2g + i]: of rows 2g and 2g + 1, words i, 2 + i, 4 + i, 6 + i
#pragma GCC unroll 4
      for (size_t g = 0; g < 4; ++g) {
        T row[2];
#pragma GCC unroll 2
        for (size_t i = 0; i < 2; ++i) {
          const uint8_t* from = rows[2 * g + i] + at + 64 * half;
          row[i] = _mm512_loadu_si512(from);
          _mm_prefetch(reinterpret_cast<const char*>(from + kPrefetchBytes), _MM_HINT_T0);
          if constexpr (big) row[i] = _mm512_shuffle_epi8(row[i], swap);
        }
        pair[2 * g] = _mm512_unpacklo_epi64(row[0], row[1]);
        pair[2 * g + 1] = _mm512_unpackhi_epi64(row[0], row[1]);
      }
#pragma GCC unroll 2
      for (size_t i = 0; i < 2; ++i) {
        const T even01 = _mm512_shuffle_i64x2(pair[i], pair[2 + i], 0x88);
        const T odd01 = _mm512_shuffle_i64x2(pair[i], pair[2 + i], 0xdd);
        const T even23 = _mm512_shuffle_i64x2(pair[4 + i], pair[6 + i], 0x88);
        const T odd23 = _mm512_shuffle_i64x2(pair[4 + i], pair[6 + i], 0xdd);
        out[8 * half + i] = _mm512_shuffle_i64x2(even01, even23, 0x88);
        out[8 * half + 4 + i] = _mm512_shuffle_i64x2(even01, even23, 0xdd);
        out[8 * half + 2 + i] = _mm512_shuffle_i64x2(odd01, odd23, 0x88);
        out[8 * half + 6 + i] = _mm512_shuffle_i64x2(odd01, odd23, 0xdd);
      }
    }
  }
};

}  // namespace
}  // namespace lunsync
