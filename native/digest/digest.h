// Digests of many equal-length messages at once.
//
// A Batch digests up to `lanes_max` messages side by side: they all have the same length and are fed in
// slices, so that extents of any size pass through a bounded buffer. Different messages fill the lanes of
// one vector register; which kernel does it is chosen at run time by the CPU's features, once per process,
// and can be forced (see cpu.h). Every kernel of an algorithm yields the same bytes.
//
// Ownership: callers lend the slices for the duration of update(); nothing is allocated after construction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace lunsync {

enum class Algorithm : uint8_t { md5, sha1, sha256, sha512, crc32c, crc64 };
constexpr size_t kAlgorithmCount = 6;
constexpr size_t kDigestBytesMax = 64;

// Canonical lower-case name: "md5", "sha1", "sha256", "sha512", "crc32c", "crc64".
const char* algorithm_name(Algorithm algorithm);

// Bytes of one digest: 16, 20, 32, 64, 4, 8. CRCs are written most significant byte first.
size_t digest_bytes(Algorithm algorithm);

// How many messages one Batch should be given at once to keep the chosen kernel's lanes full.
size_t lanes_preferred(Algorithm algorithm);

// The names of the kernels that this CPU can run, the best first, the portable one last.
std::vector<const char*> kernels_available(Algorithm algorithm);

// The name of the kernel in use.
const char* kernel_chosen(Algorithm algorithm);

class Batch {
 public:
  // `kernel` names one of kernels_available(), or is null for the chosen one.
  Batch(Algorithm algorithm, size_t lanes_max, const char* kernel = nullptr);
  ~Batch();
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  // Begins `lanes` new messages (1 … lanes_max).
  void start(size_t lanes);

  // Appends data[i][0 … bytes) to message i. Every slice but the last of a message is a multiple of 128 bytes.
  void update(const uint8_t* const* data, size_t bytes);

  // Writes the digest of message i to out + i * out_stride.
  void finish(uint8_t* out, size_t out_stride);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lunsync
