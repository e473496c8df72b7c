#include "sg/sg_pool.h"

#include <errno.h>

#include <algorithm>

namespace lunsync {

SgPool::SgPool(const SgLibrary& library, std::function<void(SgResult&&)> done)
    : library_(library), done_(std::move(done)) {}

SgPool::~SgPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    queue_.clear();
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void SgPool::submit(SgCommand&& command) {
  std::lock_guard<std::mutex> lock(mutex_);
  queue_.push_back(std::move(command));
  if (idle_ >= queue_.size()) {
    wake_.notify_one();
  } else if (threads_.size() < kThreadsMax) {
    threads_.emplace_back([this] { work(); });
  }
}

void SgPool::work() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    ++idle_;
    wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    --idle_;
    if (stopping_) return;
    const SgCommand command = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    done_(execute(command));
    lock.lock();
  }
}

SgResult SgPool::execute(const SgCommand& command) const {
  SgResult result;
  result.tag = command.tag;
  sg_pt_base* pt = library_.construct(command.fd, 0);
  if (pt == nullptr) {
    result.category = SgCategory::os;
    result.os_error = ENOMEM;
    return result;
  }
  uint8_t sense[252] = {};
  library_.set_cdb(pt, command.cdb.data(), static_cast<int>(command.cdb.size()));
  library_.set_sense(pt, sense, sizeof sense);
  if (command.data_in != nullptr) library_.set_data_in(pt, command.data_in, command.data_bytes);
  if (command.data_out != nullptr) library_.set_data_out(pt, command.data_out, command.data_bytes);
  const int done = library_.execute(pt, command.fd, command.timeout_seconds, 0);
  if (done != 0) {
    // Negative: errno of the system; positive: the library itself refused (bad parameters).
    result.category = SgCategory::os;
    result.os_error = done < 0 ? -done : EINVAL;
  } else {
    result.category = static_cast<SgCategory>(library_.category(pt));
    result.status = library_.status(pt);
    result.residual = std::max(0, library_.residual(pt));
    result.os_error = library_.os_error(pt);
    const int bytes = std::min<int>(library_.sense_bytes(pt), sizeof sense);
    if (bytes > 0) result.sense.assign(sense, sense + bytes);
    if (result.category == SgCategory::transport) {
      char text[256] = {};
      library_.transport_error(pt, sizeof text, text);
      result.transport = text;
    }
  }
  library_.destruct(pt);
  return result;
}

}  // namespace lunsync
