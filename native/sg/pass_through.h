// SCSI commands through the kernel: each takes a thread until the kernel is done with it.
//
// Guarantees: a command's data is copied to and from memory of its own, so that nothing of JavaScript's is touched by
// the kernel, nor by anybody once the command was abandoned or its environment has ended. A command can't be
// called back: its thread is left to it, even past the end of the environment.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "sg/sgutils.h"

namespace lunsync {

// An open device, and the block device behind it that is kept from others. Both are closed with the last command.
class PassThroughDevice {
 public:
  explicit PassThroughDevice(const SgUtils& library) : library_(library) {}
  ~PassThroughDevice();
  PassThroughDevice(const PassThroughDevice&) = delete;
  PassThroughDevice& operator=(const PassThroughDevice&) = delete;

  // 0 or a negative errno. With `claim`, a path of a block device, that is opened exclusively, and its page cache
  // is written back and dropped, now and at the end.
  int open(const std::string& path, bool writable, const std::string& claim, bool* claimed);
  int fd() const { return fd_; }

 private:
  const SgUtils& library_;
  int fd_ = -1;
  int claim_fd_ = -1;
};

struct Piece {
  uint8_t* data = nullptr;
  size_t length = 0;
};

constexpr size_t kSenseBytes = 252;

struct PassThroughCommand {
  uint64_t tag = 0;
  std::shared_ptr<PassThroughDevice> device;
  std::vector<uint8_t> cdb;
  std::vector<Piece> data_out;  // lent by JavaScript, as is data_in
  Piece data_in;
  int timeout_seconds = 0;

  // What came of it.
  int os_error = 0;  // a positive errno: the kernel did not take the command
  bool refused = false;  // the library found the command wrong
  bool timed_out = false;
  int category = 0;  // SCSI_PT_RESULT_…
  int status = 0;
  int host_status = 0;
  std::string transport_words;
  int residual = 0;  // bytes that were not transferred
  size_t data_in_bytes = 0;
  size_t sense_bytes = 0;
  uint8_t sense[kSenseBytes];
};

// The buffers that one environment has lent. Copies are made under a shared lock; whoever takes buffers back waits for
// those that are being made, not for the kernel.
class Loan {
 public:
  // Runs `copy` unless the loan of `tag` is over.
  bool with(uint64_t tag, const std::function<void()>& copy);
  void lend(uint64_t tag);
  // After this, nothing is copied to or from the buffers of `tag`.
  void end(uint64_t tag);
  void end_all();

 private:
  std::shared_mutex mutex_;
  std::vector<uint64_t> lent_;
  bool over_ = false;
};

using Deliver = std::function<void(std::unique_ptr<PassThroughCommand>)>;

// Carries `command` out on a thread of the pool, which the whole process shares, and hands it to `deliver` there.
void submit_pass_through(const SgUtils& library, std::unique_ptr<PassThroughCommand> command,
                         std::shared_ptr<Loan> loan, Deliver deliver);

}  // namespace lunsync
