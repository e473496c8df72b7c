// The threads in which SCSI commands wait for their devices.
//
// A command occupies one thread until it ends; there are no more than kThreadsMax, and what comes on top waits. The
// destructor waits for all commands: the kernel writes into their buffers until then.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "sg/sg_library.h"

namespace lunsync {

struct SgCommand {
  uint64_t tag = 0;
  int fd = -1;
  int timeout_seconds = 60;
  std::vector<uint8_t> cdb;
  const uint8_t* data_out = nullptr;  // lent by JavaScript until the result
  uint8_t* data_in = nullptr;
  int data_bytes = 0;
};

struct SgResult {
  uint64_t tag = 0;
  SgCategory category = SgCategory::good;
  int status = 0;
  int residual = 0;
  int os_error = 0;
  std::vector<uint8_t> sense;
  std::string transport;
};

class SgPool {
 public:
  SgPool(const SgLibrary& library, std::function<void(SgResult&&)> done);
  ~SgPool();

  void submit(SgCommand&& command);

 private:
  static constexpr size_t kThreadsMax = 16;

  void work();
  SgResult execute(const SgCommand& command) const;

  const SgLibrary& library_;
  const std::function<void(SgResult&&)> done_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<SgCommand> queue_;
  std::vector<std::thread> threads_;
  size_t idle_ = 0;
  bool stopping_ = false;
};

}  // namespace lunsync
