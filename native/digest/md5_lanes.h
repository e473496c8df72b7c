// MD5 (RFC 1321) on vectors of 32-bit words, one message in each lane; N vectors are interleaved so that
// one's latency hides behind the others' work. V gives the operations; see lanes_portable.h for what they
// mean.
#pragma once

#include <utility>

#include "digest/constants.h"
#include "digest/kernel.h"

namespace lunsync {
namespace {

template <class V, size_t N>
struct Md5 {
  using T = typename V::T;

  template <size_t I>
  [[gnu::always_inline]] static inline void step(T (&s)[4][N], const T (&x)[N][16]) {
    constexpr int kShifts[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};
    constexpr size_t round = I / 16;
    constexpr size_t kWords[4] = {I % 16, (5 * I + 1) % 16, (3 * I + 5) % 16, 7 * I % 16};
    constexpr size_t word = kWords[round];
    T(&a)[N] = s[(0 - I) % 4];
    T(&b)[N] = s[(1 - I) % 4];
    T(&c)[N] = s[(2 - I) % 4];
    T(&d)[N] = s[(3 - I) % 4];
    const T k = V::set1(kMd5Constants[I]);
#pragma GCC unroll 4
    for (size_t n = 0; n < N; ++n) {
      T f;
      if constexpr (round == 0) f = V::choose(b[n], c[n], d[n]);
      if constexpr (round == 1) f = V::choose(d[n], b[n], c[n]);
      if constexpr (round == 2) f = V::parity(b[n], c[n], d[n]);
      if constexpr (round == 3) f = V::md5_i(b[n], c[n], d[n]);
      const T sum = V::add(V::add(a[n], V::add(x[n][word], k)), f);
      a[n] = V::add(V::template rotl<kShifts[round][I % 4]>(sum), b[n]);
    }
  }

  template <size_t... I>
  [[gnu::always_inline]] static inline void steps(T (&s)[4][N], const T (&x)[N][16],
                                                  std::index_sequence<I...>) {
    (step<I>(s, x), ...);
  }

  static void advance(void* state, const uint8_t* const* rows, size_t bytes) {
    constexpr size_t L = V::lanes;
    uint32_t* words = static_cast<uint32_t*>(state);
    T s[4][N];
    for (size_t w = 0; w < 4; ++w) {
      for (size_t n = 0; n < N; ++n) s[w][n] = V::load(words + (w * N + n) * L);
    }
    for (size_t at = 0; at < bytes; at += 64) {
      T x[N][16];
      T before[4][N];
      for (size_t n = 0; n < N; ++n) V::template load_block<false>(x[n], rows + n * L, at);
      for (size_t w = 0; w < 4; ++w) {
        for (size_t n = 0; n < N; ++n) before[w][n] = s[w][n];
      }
      steps(s, x, std::make_index_sequence<64>());
      for (size_t w = 0; w < 4; ++w) {
        for (size_t n = 0; n < N; ++n) s[w][n] = V::add(s[w][n], before[w][n]);
      }
    }
    for (size_t w = 0; w < 4; ++w) {
      for (size_t n = 0; n < N; ++n) V::store(words + (w * N + n) * L, s[w][n]);
    }
  }
};

}  // namespace
}  // namespace lunsync
