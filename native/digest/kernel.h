// What a kernel is, and which there are.
//
// A kernel advances the states of several messages by equally many bytes of each. State: word w of lane l
// stands at [w * lanes + l], 32 or 64 bits wide as the algorithm has it; a CRC is one 64-bit word, the CRC of
// what came before (0 at the start). A kernel may have several widths; Batch covers its messages with the
// widest that pays.
#pragma once

#include <cstddef>
#include <cstdint>

#include "digest/cpu.h"
#include "digest/digest.h"

namespace lunsync {

constexpr size_t kWidthsMax = 3;
constexpr size_t kKernelLanesMax = 32;

// `bytes` is a multiple of the algorithm's block; any number for a CRC. `state` is aligned to 64 bytes.
using Advance = void (*)(void* state, const uint8_t* const* rows, size_t bytes);

struct Width {
  size_t lanes;      // messages that one call advances
  size_t lanes_min;  // from how many messages on that is faster than the narrower widths
  Advance advance;
};

struct Kernel {
  const char* name;
  Algorithm algorithm;
  size_t preferred;                      // messages at once that keep it busy
  bool (*usable)(const CpuFeatures&);
  Width widths[kWidthsMax];              // the widest first; the last has lanes_min 1
};

// Ended by a null pointer; the best first, the portable one last.
extern const Kernel* const kKernels[];

// The kernel of that name, or the chosen one for null; null if this CPU cannot run it.
const Kernel* find_kernel(Algorithm algorithm, const char* name);

// Properties of an algorithm that Batch needs for starting and ending a message.
struct Traits {
  const char* name;
  size_t digest_bytes;
  size_t block_bytes;   // 1: no padding (CRC)
  size_t word_bytes;
  size_t words;
  size_t length_bytes;  // of the length field that ends the padding
  bool big_endian;
  uint64_t initial[8];
};

const Traits& traits_of(Algorithm algorithm);

// CRC-32C of data, continuing `crc` (0 at the start), by the fastest way for short and long data.
uint32_t crc32c(uint32_t crc, const uint8_t* data, size_t bytes);

}  // namespace lunsync
