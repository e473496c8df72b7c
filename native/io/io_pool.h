// The threads that block: reads, writes, zeroing and flushes of many requests, answered in any order.
//
// One active thread serves a page cache, which answers faster than a second thread wakes. Before a thread makes
// a call that waits for a device it hands its role on, so that a slow device sees a queue as deep as kThreadsMax; and
// when a request has waited kPatienceNs although nobody blocks, another thread helps, if there is a core for it. What
// only copies memory gains nothing from more threads than cores: they fight for the file's lock.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "io/block_file.h"
#include "io/completion.h"

namespace lunsync {

enum class IoKind : uint8_t { read, write, zero, flush, next_data, grow };
constexpr uint32_t kIoDirect = 1;   // read: past the page cache
constexpr uint32_t kIoDurable = 2;  // write: on the medium before it completes
constexpr uint32_t kIoUnmap = 4;    // zero: deallocate where that can be done

struct IoRequest {
  IoKind kind = IoKind::read;
  uint32_t flags = 0;
  uint64_t tag = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint64_t queued_ns = 0;
  std::shared_ptr<BlockFile> file;
  std::vector<iovec> iov;  // lent by JavaScript until the completion
};

// Does one request on the calling thread. A read, write, zero, flush or grow yields 0; next_data yields the bytes of
// data, and `detail` where they begin; a failed read puts the offset of the first unreadable block in `detail`.
Completion execute(IoRequest& request);

// Whether a request can be done without waiting for a device.
enum class Now : uint8_t { done, would_wait, unknown };

// Does a request that needs no waiting, into `*done`; nothing is done otherwise.
Now execute_now(IoRequest& request, Completion* done);

class IoPool {
 public:
  explicit IoPool(CompletionQueue& completions);
  ~IoPool();  // the requests that are queued are still done

  void submit(std::vector<IoRequest>&& requests);

 private:
  static constexpr size_t kThreadsMax = 32;
  static constexpr uint64_t kPatienceNs = 50000;
  // A call that takes longer than this, and this for every byte, has waited for a device.
  static constexpr uint64_t kSlowNs = 500000;
  static constexpr uint64_t kSlowNsPerByte = 3;

  void work();
  void help();  // with mutex_ held: sees to it that somebody takes what is queued
  bool waits(const IoRequest& request, Now now) const;

  CompletionQueue& completions_;
  const size_t cores_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<IoRequest> queue_;
  std::vector<std::thread> threads_;
  size_t idle_ = 0;
  size_t active_ = 0;  // neither idle nor in a call that may block
  size_t called_ = 0;  // idle threads that were told to wake and have not yet
  // As the latest ones were; reads only where the file system can't tell beforehand.
  bool writes_are_slow_ = false;
  bool reads_are_slow_ = true;
  bool stopping_ = false;
};

}  // namespace lunsync
