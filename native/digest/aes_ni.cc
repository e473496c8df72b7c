// AES-128 by AES-NI, four blocks and keys interleaved: the key schedule's latency is what costs, not the
// blocks.
#if defined(__x86_64__)

#include <immintrin.h>

#include "digest/aes.h"

namespace lunsync {

namespace {

constexpr size_t kInterleaved = 4;
constexpr size_t kRounds = 10;
constexpr int kRoundConstants[kRounds] = {1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80, 0x1b, 0x36};

inline __m128i load(const uint8_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }
inline void store(uint8_t* to, __m128i x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), x); }

// With all four columns the same, AESENCLAST does SubBytes only: it is quicker than AESKEYGENASSIST.
inline __m128i next_round_key(__m128i key, int constant) {
  const __m128i rotated_last_word =
      _mm_setr_epi8(13, 14, 15, 12, 13, 14, 15, 12, 13, 14, 15, 12, 13, 14, 15, 12);
  const __m128i word =
      _mm_aesenclast_si128(_mm_shuffle_epi8(key, rotated_last_word), _mm_set1_epi32(constant));
  key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
  key = _mm_xor_si128(key, _mm_slli_si128(key, 8));
  return _mm_xor_si128(key, word);
}

template <size_t N>
inline void encrypt(const uint8_t* keys, const uint8_t* in, uint8_t* out) {
  __m128i key[N], state[N];
  for (size_t i = 0; i < N; ++i) {
    key[i] = load(keys + 16 * i);
    state[i] = _mm_xor_si128(load(in + 16 * i), key[i]);
  }
  for (size_t round = 1; round <= kRounds; ++round) {
    for (size_t i = 0; i < N; ++i) {
      key[i] = next_round_key(key[i], kRoundConstants[round - 1]);
      state[i] =
          round < kRounds ? _mm_aesenc_si128(state[i], key[i]) : _mm_aesenclast_si128(state[i], key[i]);
    }
  }
  for (size_t i = 0; i < N; ++i) store(out + 16 * i, state[i]);
}

template <size_t N>
inline void decrypt(const uint8_t* keys, const uint8_t* in, uint8_t* out) {
  __m128i key[kRounds + 1][N], state[N];
  for (size_t i = 0; i < N; ++i) key[0][i] = load(keys + 16 * i);
  for (size_t round = 1; round <= kRounds; ++round) {
    for (size_t i = 0; i < N; ++i) {
      key[round][i] = next_round_key(key[round - 1][i], kRoundConstants[round - 1]);
    }
  }
  for (size_t i = 0; i < N; ++i) state[i] = _mm_xor_si128(load(in + 16 * i), key[kRounds][i]);
  for (size_t round = kRounds - 1; round >= 1; --round) {
    for (size_t i = 0; i < N; ++i) state[i] = _mm_aesdec_si128(state[i], _mm_aesimc_si128(key[round][i]));
  }
  for (size_t i = 0; i < N; ++i) store(out + 16 * i, _mm_aesdeclast_si128(state[i], key[0][i]));
}

}  // namespace

void aes128_encrypt_ni(const uint8_t* keys, const uint8_t* in, size_t count, uint8_t* out) {
  size_t i = 0;
  for (; i + kInterleaved <= count; i += kInterleaved) {
    encrypt<kInterleaved>(keys + 16 * i, in + 16 * i, out + 16 * i);
  }
  for (; i < count; ++i) encrypt<1>(keys + 16 * i, in + 16 * i, out + 16 * i);
}

void aes128_decrypt_ni(const uint8_t* keys, const uint8_t* in, size_t count, uint8_t* out) {
  size_t i = 0;
  for (; i + kInterleaved <= count; i += kInterleaved) {
    decrypt<kInterleaved>(keys + 16 * i, in + 16 * i, out + 16 * i);
  }
  for (; i < count; ++i) decrypt<1>(keys + 16 * i, in + 16 * i, out + 16 * i);
}

}  // namespace lunsync

#endif
