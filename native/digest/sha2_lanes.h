// SHA-256 and SHA-512 (FIPS 180-4), which differ in word size, rotations and rounds only, on vectors of
// words, one message in each lane, N vectors interleaved. V gives the operations; see lanes_portable.h for
// what they mean.
#pragma once

#include <utility>

#include "digest/constants.h"
#include "digest/kernel.h"

namespace lunsync {
namespace {

struct Sha256Rules {
  using Word = uint32_t;
  static constexpr size_t rounds = 64;
  static constexpr const Word* constants = kSha256Constants;
  static constexpr int sum0[3] = {2, 13, 22};
  static constexpr int sum1[3] = {6, 11, 25};
  static constexpr int sigma0[3] = {7, 18, 3};  // two rotations and a shift
  static constexpr int sigma1[3] = {17, 19, 10};
};

struct Sha512Rules {
  using Word = uint64_t;
  static constexpr size_t rounds = 80;
  static constexpr const Word* constants = kSha512Constants;
  static constexpr int sum0[3] = {28, 34, 39};
  static constexpr int sum1[3] = {14, 18, 41};
  static constexpr int sigma0[3] = {1, 8, 7};
  static constexpr int sigma1[3] = {19, 61, 6};
};

template <class R, class V, size_t N>
struct Sha2 {
  using T = typename V::T;
  using Word = typename R::Word;

  template <size_t I>
  [[gnu::always_inline]] static inline void step(T (&s)[8][N], T (&w)[N][16]) {
    T(&a)[N] = s[(0 - I) % 8];
    T(&b)[N] = s[(1 - I) % 8];
    T(&c)[N] = s[(2 - I) % 8];
    T(&d)[N] = s[(3 - I) % 8];
    T(&e)[N] = s[(4 - I) % 8];
    T(&f)[N] = s[(5 - I) % 8];
    T(&g)[N] = s[(6 - I) % 8];
    T(&h)[N] = s[(7 - I) % 8];
    const T k = V::set1(R::constants[I]);
#pragma GCC unroll 4
    for (size_t n = 0; n < N; ++n) {
      T& x = w[n][I % 16];
      const T sum1 = V::parity(V::template rotr<R::sum1[0]>(e[n]), V::template rotr<R::sum1[1]>(e[n]),
                               V::template rotr<R::sum1[2]>(e[n]));
      const T sum0 = V::parity(V::template rotr<R::sum0[0]>(a[n]), V::template rotr<R::sum0[1]>(a[n]),
                               V::template rotr<R::sum0[2]>(a[n]));
      const T t1 = V::add(V::add(V::add(h[n], V::add(x, k)), V::choose(e[n], f[n], g[n])), sum1);
      d[n] = V::add(d[n], t1);
      h[n] = V::add(V::add(t1, V::majority(a[n], b[n], c[n])), sum0);
      if constexpr (I + 16 < R::rounds) {
        const T y = w[n][(I + 1) % 16];
        const T z = w[n][(I + 14) % 16];
        const T sigma0 = V::parity(V::template rotr<R::sigma0[0]>(y), V::template rotr<R::sigma0[1]>(y),
                                   V::template shr<R::sigma0[2]>(y));
        const T sigma1 = V::parity(V::template rotr<R::sigma1[0]>(z), V::template rotr<R::sigma1[1]>(z),
                                   V::template shr<R::sigma1[2]>(z));
        x = V::add(V::add(x, w[n][(I + 9) % 16]), V::add(sigma0, sigma1));
      }
    }
  }

  template <size_t... I>
  [[gnu::always_inline]] static inline void steps(T (&s)[8][N], T (&w)[N][16], std::index_sequence<I...>) {
    (step<I>(s, w), ...);
  }

  static void advance(void* state, const uint8_t* const* rows, size_t bytes) {
    constexpr size_t L = V::lanes;
    Word* words = static_cast<Word*>(state);
    T s[8][N];
    for (size_t w = 0; w < 8; ++w) {
      for (size_t n = 0; n < N; ++n) s[w][n] = V::load(words + (w * N + n) * L);
    }
    for (size_t at = 0; at < bytes; at += 16 * sizeof(Word)) {
      T x[N][16];
      T before[8][N];
      for (size_t n = 0; n < N; ++n) V::template load_block<true>(x[n], rows + n * L, at);
      for (size_t w = 0; w < 8; ++w) {
        for (size_t n = 0; n < N; ++n) before[w][n] = s[w][n];
      }
      steps(s, x, std::make_index_sequence<R::rounds>());
      for (size_t w = 0; w < 8; ++w) {
        for (size_t n = 0; n < N; ++n) s[w][n] = V::add(s[w][n], before[w][n]);
      }
    }
    for (size_t w = 0; w < 8; ++w) {
      for (size_t n = 0; n < N; ++n) V::store(words + (w * N + n) * L, s[w][n]);
    }
  }
};

}  // namespace
}  // namespace lunsync
