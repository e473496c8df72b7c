// Batch: how messages are spread over a kernel's widths, and how they begin and end.
#include <algorithm>
#include <cassert>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "digest/digest.h"
#include "digest/kernel.h"

namespace lunsync {

namespace {

constexpr size_t kBlockBytesMax = 128;
constexpr size_t kStateBytesMax = 64;  // of one lane

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

// The bytes of a word as they must stand in memory: `big`-endian or not.
uint32_t in_order(uint32_t word, bool big) {
  return big == (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) ? __builtin_bswap32(word) : word;
}

uint64_t in_order(uint64_t word, bool big) {
  return big == (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) ? __builtin_bswap64(word) : word;
}

// Writes the words of one lane, which stand `lanes` words apart.
template <class Word>
void write_digest(const uint8_t* state, size_t lanes, size_t words, bool big, uint8_t* out) {
  for (size_t w = 0; w < words; ++w) {
    Word word;
    std::memcpy(&word, state + w * lanes * sizeof word, sizeof word);
    word = in_order(word, big);
    std::memcpy(out + w * sizeof word, &word, sizeof word);
  }
}

// Sets `count` words from the one numbered `first` on.
template <class Word>
void fill(uint8_t* state, size_t first, size_t count, Word word) {
  for (size_t i = first; i < first + count; ++i) std::memcpy(state + i * sizeof word, &word, sizeof word);
}

}  // namespace

struct Batch::State {
  // Neighbouring messages that one width of the kernel advances together.
  struct Group {
    const Width* width;
    size_t first;
    size_t lanes;
    uint8_t* state;
  };

  const Kernel* kernel;
  const Traits* traits;
  size_t lanes_max;
  size_t lanes = 0;
  uint64_t bytes = 0;      // of each message so far
  size_t tail_bytes = 0;   // of them not yet given to the kernel
  std::unique_ptr<uint8_t, Free> states;
  std::vector<uint8_t> tails;  // two blocks for each lane
  std::vector<const uint8_t*> tail_rows;
  std::vector<Group> groups;

  void advance(const uint8_t* const* rows, size_t count);
};

Batch::Batch(Algorithm algorithm, size_t lanes_max, const char* kernel) : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.kernel = find_kernel(algorithm, kernel);
  if (s.kernel == nullptr) throw std::invalid_argument("no such digest kernel");
  s.traits = &traits_of(algorithm);
  s.lanes_max = lanes_max;
  // At worst every message is a group of its own, or one group is padded to the widest width.
  const size_t lanes = lanes_max + kKernelLanesMax;
  s.states.reset(static_cast<uint8_t*>(std::aligned_alloc(64, lanes * kStateBytesMax)));
  if (!s.states) throw std::bad_alloc();
  s.groups.reserve(lanes_max);
  if (s.traits->block_bytes > 1) {
    s.tails.resize(lanes_max * 2 * kBlockBytesMax);
    s.tail_rows.resize(lanes_max);
    for (size_t i = 0; i < lanes_max; ++i) s.tail_rows[i] = &s.tails[i * 2 * kBlockBytesMax];
  }
}

Batch::~Batch() = default;

void Batch::start(size_t lanes) {
  State& s = *state_;
  assert(lanes >= 1 && lanes <= s.lanes_max);
  s.lanes = lanes;
  s.bytes = 0;
  s.tail_bytes = 0;
  s.groups.clear();
  uint8_t* state = s.states.get();
  const Traits& traits = *s.traits;
  for (size_t first = 0; first < lanes;) {
    const Width* width = s.kernel->widths;
    while (width->lanes_min > lanes - first) ++width;
    s.groups.push_back({width, first, std::min(width->lanes, lanes - first), state});
    for (size_t w = 0; w < traits.words; ++w) {
      if (traits.word_bytes == 4) {
        fill(state, w * width->lanes, width->lanes, static_cast<uint32_t>(traits.initial[w]));
      } else {
        fill(state, w * width->lanes, width->lanes, traits.initial[w]);
      }
    }
    state += round_up(traits.words * width->lanes * traits.word_bytes, 64);
    first += s.groups.back().lanes;
  }
}

// `count` bytes of each row: whole blocks.
void Batch::State::advance(const uint8_t* const* rows, size_t count) {
  for (const Group& group : groups) {
    const uint8_t* const* mine = rows + group.first;
    const uint8_t* padded[kKernelLanesMax];
    if (group.lanes < group.width->lanes) {  // spare lanes repeat the last row, which is in the cache then
      for (size_t lane = 0; lane < group.width->lanes; ++lane) {
        padded[lane] = mine[std::min(lane, group.lanes - 1)];
      }
      mine = padded;
    }
    group.width->advance(group.state, mine, count);
  }
}

void Batch::update(const uint8_t* const* data, size_t bytes) {
  State& s = *state_;
  assert(s.lanes > 0 && s.tail_bytes == 0);
  s.bytes += bytes;
  const size_t tail = bytes % s.traits->block_bytes;
  const size_t whole = bytes - tail;
  if (whole > 0) s.advance(data, whole);
  if (tail == 0) return;
  for (size_t lane = 0; lane < s.lanes; ++lane) {
    std::memcpy(&s.tails[lane * 2 * kBlockBytesMax], data[lane] + whole, tail);
  }
  s.tail_bytes = tail;
}

void Batch::finish(uint8_t* out, size_t out_stride) {
  State& s = *state_;
  const Traits& traits = *s.traits;
  if (traits.block_bytes > 1) {  // one bit, zeros, and the length in bits
    const size_t padded = round_up(s.tail_bytes + 1 + traits.length_bytes, traits.block_bytes);
    for (size_t lane = 0; lane < s.lanes; ++lane) {
      uint8_t* tail = &s.tails[lane * 2 * kBlockBytesMax];
      std::memset(tail + s.tail_bytes, 0, padded - s.tail_bytes);
      tail[s.tail_bytes] = 0x80;
      const uint64_t bits = in_order(s.bytes * 8, traits.big_endian);
      std::memcpy(tail + padded - 8, &bits, 8);
    }
    s.advance(s.tail_rows.data(), padded);
  }
  for (const State::Group& group : s.groups) {
    for (size_t lane = 0; lane < group.lanes; ++lane) {
      uint8_t* digest = out + (group.first + lane) * out_stride;
      const uint8_t* state = group.state + lane * traits.word_bytes;
      if (traits.block_bytes == 1) {  // the CRC is the low end of its word
        uint8_t crc[8];
        write_digest<uint64_t>(state, 1, 1, true, crc);
        std::memcpy(digest, crc + 8 - traits.digest_bytes, traits.digest_bytes);
      } else if (traits.word_bytes == 4) {
        write_digest<uint32_t>(state, group.width->lanes, traits.words, traits.big_endian, digest);
      } else {
        write_digest<uint64_t>(state, group.width->lanes, traits.words, traits.big_endian, digest);
      }
    }
  }
  s.lanes = 0;
}

}  // namespace lunsync
