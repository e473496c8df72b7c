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

void store_big_endian(uint64_t value, size_t bytes, uint8_t* out) {
  for (size_t i = 0; i < bytes; ++i) out[i] = static_cast<uint8_t>(value >> (8 * (bytes - 1 - i)));
}

void store_little_endian(uint64_t value, size_t bytes, uint8_t* out) {
  for (size_t i = 0; i < bytes; ++i) out[i] = static_cast<uint8_t>(value >> (8 * i));
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
    for (size_t i = 0; i < traits.words * width->lanes; ++i) {
      // The bytes of a word in memory are the CPU's own order here, as the kernels load them.
      if (traits.word_bytes == 4) {
        const uint32_t word = static_cast<uint32_t>(traits.initial[i / width->lanes]);
        std::memcpy(state + 4 * i, &word, 4);
      } else {
        std::memcpy(state + 8 * i, &traits.initial[i / width->lanes], 8);
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
      const auto store = traits.big_endian ? store_big_endian : store_little_endian;
      store(s.bytes * 8, 8, tail + padded - 8);
    }
    s.advance(s.tail_rows.data(), padded);
  }
  for (const State::Group& group : s.groups) {
    for (size_t lane = 0; lane < group.lanes; ++lane) {
      uint8_t* digest = out + (group.first + lane) * out_stride;
      if (traits.block_bytes == 1) {
        uint64_t crc;
        std::memcpy(&crc, group.state + lane * 8, 8);
        store_big_endian(crc, traits.digest_bytes, digest);
        continue;
      }
      const auto store = traits.big_endian ? store_big_endian : store_little_endian;
      for (size_t w = 0; w < traits.words; ++w) {
        const uint8_t* from = group.state + (w * group.width->lanes + lane) * traits.word_bytes;
        uint32_t word32;
        uint64_t word;
        if (traits.word_bytes == 4) {
          std::memcpy(&word32, from, 4);
          word = word32;
        } else {
          std::memcpy(&word, from, 8);
        }
        store(word, traits.word_bytes, digest + w * traits.word_bytes);
      }
    }
  }
  s.lanes = 0;
}

}  // namespace lunsync
