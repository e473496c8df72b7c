// SHA-1 and SHA-256 by the CPU's SHA instructions. One message leaves them waiting for their own results most
// of the time, so N messages are interleaved.
#pragma once

#include <immintrin.h>

#include <utility>

#include "digest/constants.h"
#include "digest/kernel.h"

namespace lunsync {
namespace {

inline __m128i load_shuffled(const uint8_t* from, __m128i order) {
  _mm_prefetch(reinterpret_cast<const char*>(from + 256), _MM_HINT_T0);
  return _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)), order);
}

template <size_t N>
struct Sha256Ni {
  // Four rounds; w[n][g % 4] holds message words 4g … 4g + 3, the first in the lowest position.
  template <size_t g>
  [[gnu::always_inline]] static inline void step(__m128i (&abef)[N], __m128i (&cdgh)[N], __m128i (&w)[N][4]) {
    const __m128i k = _mm_load_si128(reinterpret_cast<const __m128i*>(kSha256Constants + 4 * g));
#pragma GCC unroll 4
    for (size_t n = 0; n < N; ++n) {
      __m128i& x = w[n][g % 4];
      if constexpr (g >= 4) {
        const __m128i last = w[n][(g + 3) % 4];
        const __m128i ninth = _mm_alignr_epi8(last, w[n][(g + 2) % 4], 4);
        x = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(x, w[n][(g + 1) % 4]), ninth), last);
      }
      const __m128i sum = _mm_add_epi32(x, k);
      cdgh[n] = _mm_sha256rnds2_epu32(cdgh[n], abef[n], sum);
      abef[n] = _mm_sha256rnds2_epu32(abef[n], cdgh[n], _mm_shuffle_epi32(sum, 0x0e));
    }
  }

  template <size_t... g>
  [[gnu::always_inline]] static inline void steps(__m128i (&abef)[N], __m128i (&cdgh)[N], __m128i (&w)[N][4],
                                                  std::index_sequence<g...>) {
    (step<g>(abef, cdgh, w), ...);
  }

  static void advance(void* state, const uint8_t* const* rows, size_t bytes) {
    const __m128i order = _mm_set_epi32(0x0c0d0e0f, 0x08090a0b, 0x04050607, 0x00010203);
    uint32_t* words = static_cast<uint32_t*>(state);
    const auto word = [&](size_t w, size_t n) { return static_cast<int>(words[w * N + n]); };
    __m128i abef[N], cdgh[N];
    for (size_t n = 0; n < N; ++n) {
      abef[n] = _mm_set_epi32(word(0, n), word(1, n), word(4, n), word(5, n));
      cdgh[n] = _mm_set_epi32(word(2, n), word(3, n), word(6, n), word(7, n));
    }
    for (size_t at = 0; at < bytes; at += 64) {
      __m128i w[N][4], abef_before[N], cdgh_before[N];
#pragma GCC unroll 4
      for (size_t n = 0; n < N; ++n) {
        for (size_t i = 0; i < 4; ++i) w[n][i] = load_shuffled(rows[n] + at + 16 * i, order);
        abef_before[n] = abef[n];
        cdgh_before[n] = cdgh[n];
      }
      steps(abef, cdgh, w, std::make_index_sequence<16>());
#pragma GCC unroll 4
      for (size_t n = 0; n < N; ++n) {
        abef[n] = _mm_add_epi32(abef[n], abef_before[n]);
        cdgh[n] = _mm_add_epi32(cdgh[n], cdgh_before[n]);
      }
    }
    for (size_t n = 0; n < N; ++n) {
      alignas(16) uint32_t half[8];
      _mm_store_si128(reinterpret_cast<__m128i*>(half), abef[n]);
      _mm_store_si128(reinterpret_cast<__m128i*>(half + 4), cdgh[n]);
      constexpr size_t kPlaces[8] = {3, 2, 7, 6, 1, 0, 5, 4};
      for (size_t i = 0; i < 8; ++i) words[i * N + n] = half[kPlaces[i]];
    }
  }
};

template <size_t N>
struct Sha1Ni {
  // Four rounds; w[n][g % 4] holds message words 4g … 4g + 3, the first in the highest position. `e` is A, B,
  // C, D of four rounds before, from whose A the instruction makes E.
  template <size_t g>
  [[gnu::always_inline]] static inline void step(__m128i (&abcd)[N], __m128i (&e)[N], __m128i (&w)[N][4]) {
#pragma GCC unroll 4
    for (size_t n = 0; n < N; ++n) {
      __m128i& x = w[n][g % 4];
      if constexpr (g >= 4) {
        x = _mm_sha1msg2_epu32(_mm_xor_si128(_mm_sha1msg1_epu32(x, w[n][(g + 1) % 4]), w[n][(g + 2) % 4]),
                               w[n][(g + 3) % 4]);
      }
      const __m128i sum = g == 0 ? _mm_add_epi32(e[n], x) : _mm_sha1nexte_epu32(e[n], x);
      e[n] = abcd[n];
      abcd[n] = _mm_sha1rnds4_epu32(abcd[n], sum, g / 5);
    }
  }

  template <size_t... g>
  [[gnu::always_inline]] static inline void steps(__m128i (&abcd)[N], __m128i (&e)[N], __m128i (&w)[N][4],
                                                  std::index_sequence<g...>) {
    (step<g>(abcd, e, w), ...);
  }

  static void advance(void* state, const uint8_t* const* rows, size_t bytes) {
    const __m128i order = _mm_set_epi32(0x00010203, 0x04050607, 0x08090a0b, 0x0c0d0e0f);
    uint32_t* words = static_cast<uint32_t*>(state);
    const auto word = [&](size_t w, size_t n) { return static_cast<int>(words[w * N + n]); };
    __m128i abcd[N], e[N];
    for (size_t n = 0; n < N; ++n) {
      abcd[n] = _mm_set_epi32(word(0, n), word(1, n), word(2, n), word(3, n));
      e[n] = _mm_set_epi32(word(4, n), 0, 0, 0);
    }
    for (size_t at = 0; at < bytes; at += 64) {
      __m128i w[N][4], abcd_before[N], e_before[N];
#pragma GCC unroll 4
      for (size_t n = 0; n < N; ++n) {
        for (size_t i = 0; i < 4; ++i) w[n][i] = load_shuffled(rows[n] + at + 16 * i, order);
        abcd_before[n] = abcd[n];
        e_before[n] = e[n];
      }
      steps(abcd, e, w, std::make_index_sequence<20>());
#pragma GCC unroll 4
      for (size_t n = 0; n < N; ++n) {
        abcd[n] = _mm_add_epi32(abcd[n], abcd_before[n]);
        e[n] = _mm_sha1nexte_epu32(e[n], e_before[n]);
      }
    }
    for (size_t n = 0; n < N; ++n) {
      alignas(16) uint32_t half[8];
      _mm_store_si128(reinterpret_cast<__m128i*>(half), abcd[n]);
      _mm_store_si128(reinterpret_cast<__m128i*>(half + 4), e[n]);
      constexpr size_t kPlaces[5] = {3, 2, 1, 0, 7};
      for (size_t i = 0; i < 5; ++i) words[i * N + n] = half[kPlaces[i]];
    }
  }
};

}  // namespace
}  // namespace lunsync
