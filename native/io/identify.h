// Identifiers of the extents of a file, encoded or not: read, digested and encoded in threads of their own.
//
// A job is cut into chunks that the threads take in order, so that one job uses every core and several are worked
// off in the order in which they came. Memory is bounded: a thread has one staging buffer of kStagingBytes, and
// extents of any size pass through it in slices. Where a block can't be read, the job answers the extents before it
// and names it. Holes are not read: their identifier is that of zeros.
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "digest/encode.h"
#include "digest/program.h"
#include "io/block_file.h"
#include "io/completion.h"

namespace lunsync {

enum class IdentifyOutput : uint8_t {
  identifiers,  // identifier_bytes each
  encode,       // AES-128(K, B), `width` bytes each
  decode,       // AES-128⁻¹(K, input), `width` bytes each
};

struct IdentifyRequest {
  std::shared_ptr<const DigestProgram> program;
  std::shared_ptr<BlockFile> file;   // or, where null:
  const uint8_t* memory = nullptr;   // the extents' bytes, lent until the completion
  uint64_t tag = 0;
  uint64_t offset = 0;               // of the first extent, in the volume
  uint64_t bytes = 0;                // of all; the last extent may be shorter than extent_bytes
  uint64_t extent_bytes = 0;
  uint32_t block_bytes = 512;
  bool direct = false;
  IdentifyOutput output = IdentifyOutput::identifiers;
  size_t width = 0;                  // bytes of one value
  std::array<uint8_t, 16> initial_value{};
  const uint8_t* input = nullptr;    // decode: 16 bytes an extent
  uint8_t* values = nullptr;         // count() * width

  uint32_t count() const { return static_cast<uint32_t>((bytes + extent_bytes - 1) / extent_bytes); }
};

class IdentifyPool {
 public:
  // The completion's result is the number of values from the start that are right; if it is less than count(),
  // `error` is the errno and `detail` the byte offset of the block that could not be read.
  IdentifyPool(CompletionQueue& completions, size_t threads_max);
  ~IdentifyPool();

  void submit(IdentifyRequest&& request);

  // Read in one system call, shared by all leaves of a program while it is in the cache.
  static constexpr size_t kStagingBytes = 4u << 20;
  static constexpr size_t kSliceBytes = 64u << 10;

 private:
  struct Job;
  class Worker;

  void work();

  CompletionQueue& completions_;
  const size_t threads_max_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Job>> jobs_;
  std::vector<std::thread> threads_;
  size_t idle_ = 0;
  bool stopping_ = false;
};

}  // namespace lunsync
