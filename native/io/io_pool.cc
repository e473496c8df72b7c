#include "io/io_pool.h"

#include <errno.h>
#include <time.h>

namespace lunsync {

static uint64_t now_ns() {
  timespec t;
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000u + static_cast<uint64_t>(t.tv_nsec);
}

Completion execute(IoRequest& request) {
  Completion done;
  done.tag = request.tag;
  BlockFile& file = *request.file;
  switch (request.kind) {
    case IoKind::read: {
      const bool direct = (request.flags & kIoDirect) != 0;
      done.result = file.read(request.offset, request.iov.data(), static_cast<int>(request.iov.size()), direct);
      if (done.result == -EIO) {
        done.detail = static_cast<int64_t>(
            file.first_unreadable(request.offset, request.bytes, file.info().logical_block_bytes, direct));
      }
      break;
    }
    case IoKind::write:
      done.result = file.write(request.offset, request.iov.data(), static_cast<int>(request.iov.size()),
                               (request.flags & kIoDurable) != 0);
      if (done.result < 0 && (request.flags & kIoDurable) != 0) file.distrust_cache();
      break;
    case IoKind::zero:
      done.result = file.zero(request.offset, request.bytes, (request.flags & kIoUnmap) != 0);
      break;
    case IoKind::flush:
      done.result = file.flush();
      if (done.result < 0) file.distrust_cache();
      break;
    case IoKind::next_data: {
      DataRange range;
      done.result = file.next_data(request.offset, request.offset + request.bytes, &range);
      if (done.result == 0) {
        done.result = static_cast<int64_t>(range.bytes);
        done.detail = static_cast<int64_t>(range.offset);
      }
      break;
    }
  }
  return done;
}

bool execute_now(IoRequest& request, Completion* done) {
  if (request.kind != IoKind::read || (request.flags & kIoDirect) != 0 || request.iov.size() != 1) return false;
  if (request.file->read_cached(request.offset, request.iov[0].iov_base, request.iov[0].iov_len) != 0) return false;
  *done = Completion();
  done->tag = request.tag;
  return true;
}

IoPool::IoPool(CompletionQueue& completions) : completions_(completions) {}

IoPool::~IoPool() {
  std::vector<std::thread> threads;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    threads.swap(threads_);
  }
  wake_.notify_all();
  for (std::thread& thread : threads) thread.join();
}

void IoPool::submit(std::vector<IoRequest>&& requests) {
  if (requests.empty()) return;
  const uint64_t now = now_ns();
  std::lock_guard<std::mutex> lock(mutex_);
  for (IoRequest& request : requests) {
    request.queued_ns = now;
    queue_.push_back(std::move(request));
  }
  help();
}

void IoPool::help() {
  if (queue_.empty()) return;
  if (active_ > 0 && now_ns() - queue_.front().queued_ns < kPatienceNs) return;
  if (idle_ > 0) {
    --idle_;
    ++active_;
    ++called_;
    wake_.notify_one();
  } else if (threads_.size() < kThreadsMax && !stopping_) {
    ++active_;
    threads_.emplace_back([this] { work(); });
  }
}

bool IoPool::may_block(const IoRequest& request) const {
  if (request.kind == IoKind::next_data) return false;
  return request.kind != IoKind::write || (request.flags & kIoDurable) != 0 || writes_are_slow_;
}

void IoPool::work() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    while (queue_.empty()) {
      if (stopping_) return;
      --active_;
      ++idle_;
      wake_.wait(lock, [this] { return called_ > 0 || stopping_; });
      if (called_ > 0) {
        --called_;
      } else {  // stopping
        --idle_;
        ++active_;
      }
    }
    IoRequest request = std::move(queue_.front());
    queue_.pop_front();
    help();
    lock.unlock();

    Completion done;
    if (!execute_now(request, &done)) {
      lock.lock();
      const bool hand_on = may_block(request);
      if (hand_on) {
        --active_;
        help();
      }
      lock.unlock();
      const uint64_t began = now_ns();
      done = execute(request);
      const uint64_t took = now_ns() - began;
      lock.lock();
      if (hand_on) ++active_;
      if (request.kind == IoKind::write) writes_are_slow_ = took > kSlowWriteNs;
      lock.unlock();
    }
    request.file.reset();  // the last owner closes here, not under the lock
    completions_.push(done);
    lock.lock();
  }
}

}  // namespace lunsync
