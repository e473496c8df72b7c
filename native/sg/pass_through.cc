#include "sg/pass_through.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <thread>

namespace lunsync {

PassThroughDevice::~PassThroughDevice() {
  if (fd_ >= 0) library_.scsi_pt_close_device(fd_);
  if (claim_fd_ < 0) return;
  // What was written went past this cache: nobody shall read from it what the medium had before.
  (void)::ioctl(claim_fd_, BLKFLSBUF, 0);
  ::close(claim_fd_);
}

int PassThroughDevice::open(const std::string& path, bool writable, const std::string& claim, bool* claimed) {
  *claimed = claim.empty();
  if (!claim.empty()) {
    claim_fd_ = ::open(claim.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC | O_NONBLOCK);
    if (claim_fd_ < 0) return -errno;
    *claimed = true;
    (void)::ioctl(claim_fd_, BLKFLSBUF, 0);
  }
  const int fd = library_.scsi_pt_open_flags(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_CLOEXEC, 0);
  if (fd < 0) return fd;
  fd_ = fd;
  return 0;
}

bool Loan::with(uint64_t tag, const std::function<void()>& copy) {
  std::shared_lock<std::shared_mutex> lock(mutex_);
  if (over_ || std::find(lent_.begin(), lent_.end(), tag) == lent_.end()) return false;
  copy();
  return true;
}

void Loan::lend(uint64_t tag) {
  std::unique_lock<std::shared_mutex> lock(mutex_);
  lent_.push_back(tag);
}

void Loan::end(uint64_t tag) {
  std::unique_lock<std::shared_mutex> lock(mutex_);
  lent_.erase(std::remove(lent_.begin(), lent_.end(), tag), lent_.end());
}

void Loan::end_all() {
  std::unique_lock<std::shared_mutex> lock(mutex_);
  over_ = true;
}

namespace {

struct Free {
  void operator()(uint8_t* memory) const { ::free(memory); }
};
using Pages = std::unique_ptr<uint8_t, Free>;

// Whole pages, so that the kernel need not copy once more.
Pages pages_for(size_t bytes) {
  constexpr size_t kPage = 4096;
  void* memory = nullptr;
  if (::posix_memalign(&memory, kPage, (bytes + kPage - 1) / kPage * kPage) != 0) memory = nullptr;
  return Pages(static_cast<uint8_t*>(memory));
}

void carry_out(const SgUtils& library, PassThroughCommand& command, Loan& loan) {
  size_t out_bytes = 0;
  for (const Piece& piece : command.data_out) out_bytes += piece.length;
  const size_t in_bytes = command.data_in.length;
  const size_t bytes = std::max(out_bytes, in_bytes);
  Pages memory;
  if (bytes > 0) {
    memory = pages_for(bytes);
    if (!memory) {
      command.os_error = ENOMEM;
      return;
    }
    // What a device claims to have sent and has not is zeros, not somebody's memory.
    if (in_bytes > 0) ::memset(memory.get(), 0, in_bytes);
  }
  if (out_bytes > 0) {
    const bool lent = loan.with(command.tag, [&] {
      uint8_t* to = memory.get();
      for (const Piece& piece : command.data_out) {
        ::memcpy(to, piece.data, piece.length);
        to += piece.length;
      }
    });
    if (!lent) {  // given up before it began: it does not begin
      command.os_error = ECANCELED;
      return;
    }
  }

  sg_pt_base* pt = library.construct_scsi_pt_obj();
  if (pt == nullptr) {
    command.os_error = ENOMEM;
    return;
  }
  library.set_scsi_pt_cdb(pt, command.cdb.data(), static_cast<int>(command.cdb.size()));
  library.set_scsi_pt_sense(pt, command.sense, static_cast<int>(kSenseBytes));
  if (in_bytes > 0) library.set_scsi_pt_data_in(pt, memory.get(), static_cast<int>(in_bytes));
  if (out_bytes > 0) library.set_scsi_pt_data_out(pt, memory.get(), static_cast<int>(out_bytes));
  library.set_scsi_pt_flags(pt, kPtQueueAtTail);
  const int done = library.do_scsi_pt(pt, command.device->fd(), command.timeout_seconds, 0);
  if (done != 0) {
    if (done < 0) command.os_error = -done;
    else if (done == kPtDoTimeout) command.timed_out = true;
    else command.refused = true;
    library.destruct_scsi_pt_obj(pt);
    return;
  }
  command.category = library.get_scsi_pt_result_category(pt);
  command.os_error = library.get_scsi_pt_os_err(pt);
  command.status = library.get_scsi_pt_status_response(pt);
  command.host_status = library.get_scsi_pt_transport_err(pt);
  char words[256] = "";
  library.get_scsi_pt_transport_err_str(pt, sizeof words, words);
  command.transport_words = words;
  const int sense_bytes = library.get_scsi_pt_sense_len(pt);
  command.sense_bytes = static_cast<size_t>(std::max(0, std::min(sense_bytes, static_cast<int>(kSenseBytes))));
  command.residual = std::max(0, library.get_scsi_pt_resid(pt));
  library.destruct_scsi_pt_obj(pt);
  if (in_bytes > 0) {
    command.data_in_bytes = in_bytes - std::min(in_bytes, static_cast<size_t>(command.residual));
    loan.with(command.tag, [&] { ::memcpy(command.data_in.data, memory.get(), command.data_in_bytes); });
  }
}

// Never destroyed: a thread that the kernel holds may outlive everything else.
class Pool {
 public:
  void submit(std::function<void()>&& work) {
    std::lock_guard<std::mutex> lock(mutex_);
    queue_.push_back(std::move(work));
    if (idle_ >= queue_.size()) {
      wake_.notify_one();
    } else if (threads_ < kThreadsMax) {
      ++threads_;
      std::thread([this] { run(); }).detach();
    }
  }

 private:
  static constexpr size_t kThreadsMax = 32;

  [[noreturn]] void run() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      while (queue_.empty()) {
        ++idle_;
        wake_.wait(lock);
        --idle_;
      }
      {
        std::function<void()> work = std::move(queue_.front());
        queue_.pop_front();
        lock.unlock();
        work();
      }
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  size_t idle_ = 0;
  size_t threads_ = 0;
};

Pool& pool() {
  static Pool* const shared = new Pool;
  return *shared;
}

}  // namespace

void submit_pass_through(const SgUtils& library, std::unique_ptr<PassThroughCommand> command,
                         std::shared_ptr<Loan> loan, Deliver deliver) {
  // std::function wants what can be copied.
  auto shared = std::make_shared<std::unique_ptr<PassThroughCommand>>(std::move(command));
  pool().submit([&library, shared, loan = std::move(loan), deliver = std::move(deliver)] {
    carry_out(library, **shared, *loan);
    (*shared)->device.reset();  // the last owner closes here
    deliver(std::move(*shared));
  });
}

}  // namespace lunsync
