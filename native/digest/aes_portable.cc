// AES-128 for any CPU, written along FIPS 197; the S-boxes are computed by the compiler.
#include <array>
#include <cstring>

#include "digest/aes.h"

namespace lunsync {

namespace {

constexpr size_t kRounds = 10;

constexpr uint8_t twice(uint8_t x) { return static_cast<uint8_t>(x << 1 ^ ((x & 0x80) != 0 ? 0x1b : 0)); }

constexpr uint8_t product(uint8_t x, uint8_t y) {
  uint8_t sum = 0;
  for (; y != 0; y >>= 1, x = twice(x)) {
    if ((y & 1) != 0) sum ^= x;
  }
  return sum;
}

struct Boxes {
  std::array<uint8_t, 256> forward{};
  std::array<uint8_t, 256> inverse{};
};

constexpr Boxes make_boxes() {
  Boxes boxes;
  for (int x = 0; x < 256; ++x) {
    uint8_t reciprocal = static_cast<uint8_t>(x);  // x^254; 0 stays 0
    for (int i = 0; i < 6; ++i) {
      reciprocal = product(product(reciprocal, reciprocal), static_cast<uint8_t>(x));
    }
    reciprocal = product(reciprocal, reciprocal);
    uint8_t y = 0x63;
    for (int i = 0; i < 5; ++i) y ^= static_cast<uint8_t>(reciprocal << i | reciprocal >> (8 - i));
    boxes.forward[static_cast<size_t>(x)] = y;
    boxes.inverse[y] = static_cast<uint8_t>(x);
  }
  return boxes;
}

constexpr Boxes kBoxes = make_boxes();

void expand_key(const uint8_t* key, uint8_t (&round_keys)[kRounds + 1][16]) {
  std::memcpy(round_keys[0], key, 16);
  uint8_t constant = 1;
  for (size_t round = 1; round <= kRounds; ++round, constant = twice(constant)) {
    const uint8_t* last = round_keys[round - 1];
    uint8_t* next = round_keys[round];
    for (size_t i = 0; i < 4; ++i) next[i] = last[i] ^ kBoxes.forward[last[12 + (i + 1) % 4]];
    next[0] ^= constant;
    for (size_t i = 4; i < 16; ++i) next[i] = last[i] ^ next[i - 4];
  }
}

void add_key(uint8_t (&state)[16], const uint8_t (&key)[16]) {
  for (size_t i = 0; i < 16; ++i) state[i] ^= key[i];
}

// SubBytes and ShiftRows: row i (every fourth byte) moves left by i columns.
void substitute_and_shift(uint8_t (&state)[16]) {
  uint8_t from[16];
  std::memcpy(from, state, 16);
  for (size_t i = 0; i < 16; ++i) state[i] = kBoxes.forward[from[(5 * i) % 16]];
}

void substitute_and_shift_back(uint8_t (&state)[16]) {
  uint8_t from[16];
  std::memcpy(from, state, 16);
  for (size_t i = 0; i < 16; ++i) state[(5 * i) % 16] = kBoxes.inverse[from[i]];
}

void mix_columns(uint8_t (&state)[16]) {
  for (uint8_t* column = state; column < state + 16; column += 4) {
    const uint8_t all = column[0] ^ column[1] ^ column[2] ^ column[3];
    const uint8_t first = column[0];
    for (size_t i = 0; i < 4; ++i) {
      column[i] ^= all ^ twice(column[i] ^ (i == 3 ? first : column[i + 1]));
    }
  }
}

// MixColumns after adding, to every byte, 4 × the sum of the column's bytes at even (odd) distance undoes it.
void mix_columns_back(uint8_t (&state)[16]) {
  for (uint8_t* column = state; column < state + 16; column += 4) {
    const uint8_t even = twice(twice(column[0] ^ column[2]));
    const uint8_t odd = twice(twice(column[1] ^ column[3]));
    column[0] ^= even;
    column[2] ^= even;
    column[1] ^= odd;
    column[3] ^= odd;
  }
  mix_columns(state);
}

}  // namespace

void aes128_encrypt_portable(const uint8_t* keys, const uint8_t* in, size_t count, uint8_t* out) {
  for (; count > 0; --count, keys += 16, in += 16, out += 16) {
    uint8_t round_keys[kRounds + 1][16];
    uint8_t state[16];
    expand_key(keys, round_keys);
    std::memcpy(state, in, 16);
    add_key(state, round_keys[0]);
    for (size_t round = 1; round <= kRounds; ++round) {
      substitute_and_shift(state);
      if (round < kRounds) mix_columns(state);
      add_key(state, round_keys[round]);
    }
    std::memcpy(out, state, 16);
  }
}

void aes128_decrypt_portable(const uint8_t* keys, const uint8_t* in, size_t count, uint8_t* out) {
  for (; count > 0; --count, keys += 16, in += 16, out += 16) {
    uint8_t round_keys[kRounds + 1][16];
    uint8_t state[16];
    expand_key(keys, round_keys);
    std::memcpy(state, in, 16);
    for (size_t round = kRounds; round >= 1; --round) {
      add_key(state, round_keys[round]);
      if (round < kRounds) mix_columns_back(state);
      substitute_and_shift_back(state);
    }
    add_key(state, round_keys[0]);
    std::memcpy(out, state, 16);
  }
}

}  // namespace lunsync
