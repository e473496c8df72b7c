#include "io/io_pool.h"

#include <errno.h>
#include <time.h>

#include <algorithm>

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
    case IoKind::grow:
      done.result = file.grow(request.bytes);
      break;
  }
  return done;
}

Now execute_now(IoRequest& request, Completion* done) {
  if (request.kind != IoKind::read) return Now::unknown;
  if ((request.flags & kIoDirect) != 0) return Now::would_wait;
  if (request.iov.size() != 1) return Now::unknown;
  const int result = request.file->read_cached(request.offset, request.iov.data(), 1);
  if (result != 0) return result == -EOPNOTSUPP ? Now::unknown : Now::would_wait;
  *done = Completion();
  done->tag = request.tag;
  return Now::done;
}

IoPool::IoPool(CompletionQueue& completions)
    : completions_(completions), cores_(std::max(1u, std::thread::hardware_concurrency())) {}

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
  if (active_ >= cores_) return;
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

bool IoPool::waits(const IoRequest& request, Now now) const {
  switch (request.kind) {
    case IoKind::read:
      return now == Now::would_wait || reads_are_slow_;
    case IoKind::write:
      return (request.flags & kIoDurable) != 0 || writes_are_slow_;
    case IoKind::next_data:
      return false;
    default:
      return true;
  }
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
    const Now now = execute_now(request, &done);
    if (now != Now::done) {
      lock.lock();
      const bool hand_on = waits(request, now);
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
      const bool slow = took > kSlowNs + kSlowNsPerByte * request.bytes;
      if (request.kind == IoKind::write && (request.flags & kIoDurable) == 0) writes_are_slow_ = slow;
      if (request.kind == IoKind::read && now == Now::unknown) reads_are_slow_ = slow;
      lock.unlock();
    }
    request.file.reset();  // the last owner closes here, not under the lock
    completions_.push(done);
    lock.lock();
  }
}

}  // namespace lunsync
