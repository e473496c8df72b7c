// The operations that the digests' rounds are written in, on a single word: one lane, any CPU. The vector
// versions (lanes_avx2.h, lanes_avx512.h) give the same operations for every lane.
#pragma once

#include <cstring>

#include "digest/kernel.h"

namespace lunsync {
namespace {

constexpr bool kLittleEndianCpu = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;

inline uint32_t swap_bytes(uint32_t x) { return __builtin_bswap32(x); }
inline uint64_t swap_bytes(uint64_t x) { return __builtin_bswap64(x); }

template <class Word>
struct OneLane {
  using T = Word;
  static constexpr size_t lanes = 1;
  static constexpr int bits = 8 * sizeof(Word);

  static T load(const Word* from) { return *from; }
  static void store(Word* to, T x) { *to = x; }
  static T set1(Word x) { return x; }
  static T add(T x, T y) { return x + y; }
  static T bit_xor(T x, T y) { return x ^ y; }
  static T parity(T x, T y, T z) { return x ^ y ^ z; }
  static T choose(T x, T y, T z) { return z ^ (x & (y ^ z)); }  // for each bit: x ? y : z
  static T majority(T x, T y, T z) { return (x & y) | (z & (x | y)); }
  static T md5_i(T x, T y, T z) { return y ^ (x | ~z); }
  template <int n>
  static T rotl(T x) { return x << n | x >> (bits - n); }
  template <int n>
  static T rotr(T x) { return x >> n | x << (bits - n); }
  template <int n>
  static T shr(T x) { return x >> n; }

  // out[w] = word w of the 16 words at rows[lane] + at, for every lane; big: the words are big-endian.
  template <bool big>
  static void load_block(T (&out)[16], const uint8_t* const* rows, size_t at) {
    std::memcpy(out, rows[0] + at, sizeof out);
    if constexpr (big == kLittleEndianCpu) {
      for (T& word : out) word = swap_bytes(word);
    }
  }
};

}  // namespace
}  // namespace lunsync
