// SHA-1 (FIPS 180-4) on vectors of 32-bit words, one message in each lane, N vectors interleaved.
// V gives the operations; see lanes_portable.h for what they mean.
#pragma once

#include <utility>

#include "digest/kernel.h"

namespace lunsync {
namespace {

template <class V, size_t N>
struct Sha1 {
  using T = typename V::T;

  template <size_t I>
  [[gnu::always_inline]] static inline void step(T (&s)[5][N], T (&w)[N][16]) {
    constexpr uint32_t kConstants[4] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
    constexpr size_t round = I / 20;
    // 80 is a multiple of five: nothing of the wrap-around of unsigned subtraction shows.
    T(&a)[N] = s[(80 - I) % 5];
    T(&b)[N] = s[(81 - I) % 5];
    T(&c)[N] = s[(82 - I) % 5];
    T(&d)[N] = s[(83 - I) % 5];
    T(&e)[N] = s[(84 - I) % 5];
    const T k = V::set1(kConstants[round]);
#pragma GCC unroll 4
    for (size_t n = 0; n < N; ++n) {
      T& x = w[n][I % 16];
      if constexpr (I >= 16) {
        const T others = V::parity(w[n][(I + 2) % 16], w[n][(I + 8) % 16], w[n][(I + 13) % 16]);
        x = V::template rotl<1>(V::bit_xor(x, others));
      }
      T f;
      if constexpr (round == 0) f = V::choose(b[n], c[n], d[n]);
      if constexpr (round == 1 || round == 3) f = V::parity(b[n], c[n], d[n]);
      if constexpr (round == 2) f = V::majority(b[n], c[n], d[n]);
      e[n] = V::add(V::add(V::add(e[n], V::add(x, k)), f), V::template rotl<5>(a[n]));
      b[n] = V::template rotl<30>(b[n]);
    }
  }

  template <size_t... I>
  [[gnu::always_inline]] static inline void steps(T (&s)[5][N], T (&w)[N][16], std::index_sequence<I...>) {
    (step<I>(s, w), ...);
  }

  static void advance(void* state, const uint8_t* const* rows, size_t bytes) {
    constexpr size_t L = V::lanes;
    uint32_t* words = static_cast<uint32_t*>(state);
    T s[5][N];
    for (size_t w = 0; w < 5; ++w) {
      for (size_t n = 0; n < N; ++n) s[w][n] = V::load(words + (w * N + n) * L);
    }
    for (size_t at = 0; at < bytes; at += 64) {
      T x[N][16];
      T before[5][N];
      for (size_t n = 0; n < N; ++n) V::template load_block<true>(x[n], rows + n * L, at);
      for (size_t w = 0; w < 5; ++w) {
        for (size_t n = 0; n < N; ++n) before[w][n] = s[w][n];
      }
      steps(s, x, std::make_index_sequence<80>());
      for (size_t w = 0; w < 5; ++w) {
        for (size_t n = 0; n < N; ++n) s[w][n] = V::add(s[w][n], before[w][n]);
      }
    }
    for (size_t w = 0; w < 5; ++w) {
      for (size_t n = 0; n < N; ++n) V::store(words + (w * N + n) * L, s[w][n]);
    }
  }
};

}  // namespace
}  // namespace lunsync
