#include "io/identify.h"

#include <errno.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

namespace lunsync {

namespace {

constexpr uint64_t kChunkBytes = 4u << 20;

// Rows that lie a power of two apart fall into the same few sets of the first-level cache.
constexpr size_t kStaggerBytes = 64 * 3;

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

struct IdentifyPool::Job {
  IdentifyRequest request;
  uint32_t count = 0;
  uint32_t chunk_extents = 0;
  uint32_t next = 0;                   // first extent that nobody has taken; under the pool's mutex
  std::atomic<uint32_t> undone{0};     // extents not yet worked off
  std::mutex failure_mutex;
  std::atomic<uint32_t> failed_at{UINT32_MAX};  // the first extent without a value
  int failure = 0;
  uint64_t failure_offset = 0;

  void fail(uint32_t extent, int error, uint64_t offset) {
    std::lock_guard<std::mutex> lock(failure_mutex);
    if (extent >= failed_at.load()) return;
    failed_at.store(extent);
    failure = error;
    failure_offset = offset;
  }
};

// What one thread needs to work: the staging buffer and the runner of the program that it last ran.
class IdentifyPool::Worker {
 public:
  Worker() : staging_(static_cast<uint8_t*>(std::aligned_alloc(kDirectAlignment, kStagingBytes))) {}
  ~Worker() { std::free(staging_); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  void process(Job& job, uint32_t first, uint32_t count);

 private:
  void process_equal(Job& job, uint32_t first, uint32_t count, uint64_t length);
  int read_rows(const Job& job, uint64_t offset, uint64_t length, size_t rows, size_t stride);
  void digest_group(Job& job, uint32_t first, size_t lanes, uint64_t length, const uint8_t* const* rows);
  bool digest_in_slices(Job& job, uint32_t first, size_t lanes, uint64_t length);
  void emit(Job& job, uint32_t first, size_t count, const uint8_t* identifiers);
  void emit_zeros(Job& job, uint32_t first, uint32_t count, uint64_t length);
  DigestRunner& runner(const Job& job);
  bool direct(const Job& job) const { return job.request.direct || job.request.file->cache_distrusted(); }

  uint8_t* staging_;
  std::shared_ptr<const DigestProgram> program_;
  std::unique_ptr<DigestRunner> runner_;
  std::vector<uint8_t> identifiers_;
  std::vector<uint8_t> zero_identifier_;
  uint64_t zero_length_ = 0;
};

DigestRunner& IdentifyPool::Worker::runner(const Job& job) {
  if (program_ != job.request.program) {
    program_ = job.request.program;
    runner_ = std::make_unique<DigestRunner>(program_);
    identifiers_.resize(program_->lanes() * program_->identifier_bytes());
    zero_length_ = 0;
  }
  return *runner_;
}

void IdentifyPool::Worker::process(Job& job, uint32_t first, uint32_t count) {
  const IdentifyRequest& request = job.request;
  if (staging_ == nullptr) {
    job.fail(first, ENOMEM, request.offset + first * request.extent_bytes);
    return;
  }
  runner(job);
  // Only the last extent of the request may be shorter than the others.
  const uint64_t last_length = request.bytes - static_cast<uint64_t>(job.count - 1) * request.extent_bytes;
  const bool has_short = first + count == job.count && last_length != request.extent_bytes;
  const uint32_t whole = has_short ? count - 1 : count;
  if (whole > 0) process_equal(job, first, whole, request.extent_bytes);
  if (has_short) process_equal(job, job.count - 1, 1, last_length);
}

void IdentifyPool::Worker::process_equal(Job& job, uint32_t first, uint32_t count, uint64_t length) {
  const IdentifyRequest& request = job.request;
  const size_t lanes_max = program_->lanes();
  std::vector<const uint8_t*> rows(lanes_max);

  if (!request.file) {
    for (uint32_t i = 0; i < count; i += static_cast<uint32_t>(lanes_max)) {
      const size_t lanes = std::min<size_t>(lanes_max, count - i);
      for (size_t lane = 0; lane < lanes; ++lane) {
        rows[lane] = request.memory + (first + i + lane) * request.extent_bytes;
      }
      digest_group(job, first + i, lanes, length, rows.data());
    }
    return;
  }

  const uint64_t begin = request.offset + first * request.extent_bytes;
  const uint64_t end = begin + (count - 1) * request.extent_bytes + length;
  DataRange data{begin, 0};  // the run of data known to begin or end behind the place reached
  uint32_t done = 0;
  while (done < count) {
    if (first + done >= job.failed_at.load()) return;  // nobody will use what follows
    const uint64_t at = begin + done * request.extent_bytes;
    if (at >= data.offset + data.bytes && request.file->next_data_for_reading(at, end, &data) < 0) data = {at, end - at};
    const uint64_t hole_bytes = data.offset > at ? data.offset - at : 0;
    const uint32_t hole = data.bytes == 0 && data.offset >= end
                              ? count - done
                              : static_cast<uint32_t>(hole_bytes / request.extent_bytes);
    if (hole > 0) {
      emit_zeros(job, first + done, hole, length);
      done += hole;
      continue;
    }
    if (length > kSliceBytes) {
      const size_t room = kStagingBytes / (kSliceBytes + kStaggerBytes);
      const size_t lanes = std::min<size_t>({lanes_max, room, count - done});
      if (!digest_in_slices(job, first + done, lanes, length)) return;
      done += static_cast<uint32_t>(lanes);
      continue;
    }
    const bool aligned = direct(job);
    const size_t stride = aligned ? round_up(length, kDirectAlignment) : round_up(length, 64) + kStaggerBytes;
    size_t fit = std::min<size_t>(kStagingBytes / stride, std::max<size_t>(lanes_max, (1u << 20) / length));
    fit = std::min<size_t>(std::max<size_t>(1, fit), count - done);
    if (fit > lanes_max) fit -= fit % lanes_max;
    int rc = read_rows(job, at, length, fit, stride);
    size_t readable = fit;
    if (rc < 0) {  // find the extent that failed; those before it still count
      for (readable = 0; readable < fit; ++readable) {
        iovec row = {staging_ + readable * stride, static_cast<size_t>(length)};
        rc = request.file->read(at + readable * length, &row, 1, aligned);
        if (rc < 0) break;
      }
    }
    for (size_t i = 0; i < readable; i += lanes_max) {
      const size_t lanes = std::min(lanes_max, readable - i);
      for (size_t lane = 0; lane < lanes; ++lane) rows[lane] = staging_ + (i + lane) * stride;
      digest_group(job, first + done + static_cast<uint32_t>(i), lanes, length, rows.data());
    }
    if (readable < fit) {
      const uint64_t bad = at + readable * length;
      job.fail(first + done + static_cast<uint32_t>(readable), -rc,
               request.file->first_unreadable(bad, length, request.block_bytes, aligned));
      return;
    }
    done += static_cast<uint32_t>(fit);
  }
}

int IdentifyPool::Worker::read_rows(const Job& job, uint64_t offset, uint64_t length, size_t rows, size_t stride) {
  std::vector<iovec> iov(rows);
  for (size_t i = 0; i < rows; ++i) iov[i] = {staging_ + i * stride, static_cast<size_t>(length)};
  return job.request.file->read(offset, iov.data(), static_cast<int>(rows), direct(job));
}

// Extents longer than a slice: every lane's slice is read on its own.
bool IdentifyPool::Worker::digest_in_slices(Job& job, uint32_t first, size_t lanes, uint64_t length) {
  const IdentifyRequest& request = job.request;
  const bool aligned = direct(job);
  const size_t stride = aligned ? kSliceBytes : kSliceBytes + kStaggerBytes;
  std::vector<const uint8_t*> rows(lanes);
  for (size_t lane = 0; lane < lanes; ++lane) rows[lane] = staging_ + lane * stride;
  const uint64_t begin = request.offset + first * request.extent_bytes;
  size_t good = lanes;
  runner_->start(lanes);
  for (uint64_t at = 0; at < length; at += kSliceBytes) {
    const size_t bytes = static_cast<size_t>(std::min<uint64_t>(kSliceBytes, length - at));
    for (size_t lane = 0; lane < good; ++lane) {
      const uint64_t from = begin + lane * request.extent_bytes + at;
      iovec row = {staging_ + lane * stride, bytes};
      const int rc = request.file->read(from, &row, 1, aligned);
      if (rc == 0) continue;
      job.fail(first + static_cast<uint32_t>(lane), -rc,
               request.file->first_unreadable(from, bytes, request.block_bytes, aligned));
      good = lane;  // the lanes before it go on
    }
    if (good == 0) return false;
    runner_->update(rows.data(), bytes);
  }
  runner_->finish(identifiers_.data());
  emit(job, first, good, identifiers_.data());
  return good == lanes;
}

void IdentifyPool::Worker::digest_group(Job& job, uint32_t first, size_t lanes, uint64_t length,
                                        const uint8_t* const* rows) {
  runner_->start(lanes);
  runner_->update(rows, static_cast<size_t>(length));
  runner_->finish(identifiers_.data());
  emit(job, first, lanes, identifiers_.data());
}

void IdentifyPool::Worker::emit_zeros(Job& job, uint32_t first, uint32_t count, uint64_t length) {
  const size_t width = program_->identifier_bytes();
  if (zero_length_ != length) {
    const size_t bytes = static_cast<size_t>(std::min<uint64_t>(kSliceBytes, length));
    std::memset(staging_, 0, bytes);
    const uint8_t* row = staging_;
    zero_identifier_.resize(width);
    runner_->start(1);
    for (uint64_t at = 0; at < length; at += bytes) {
      runner_->update(&row, static_cast<size_t>(std::min<uint64_t>(bytes, length - at)));
    }
    runner_->finish(zero_identifier_.data());
    zero_length_ = length;
  }
  const size_t group = program_->lanes();
  for (size_t i = 0; i < group; ++i) std::memcpy(&identifiers_[i * width], zero_identifier_.data(), width);
  for (uint32_t i = 0; i < count; i += static_cast<uint32_t>(group)) {
    emit(job, first + i, std::min<size_t>(group, count - i), identifiers_.data());
  }
}

void IdentifyPool::Worker::emit(Job& job, uint32_t first, size_t count, const uint8_t* identifiers) {
  const IdentifyRequest& request = job.request;
  const size_t bytes = program_->identifier_bytes();
  uint8_t* out = request.values + first * request.width;
  if (request.output == IdentifyOutput::identifiers) {
    std::memcpy(out, identifiers, count * bytes);
    return;
  }
  constexpr size_t kGroup = 64;
  uint8_t keys[kGroup * kKeyBytes];
  uint8_t blocks[kGroup * kBlockBytes];
  for (size_t done = 0; done < count; done += kGroup) {
    const size_t group = std::min(kGroup, count - done);
    derive_keys(identifiers + done * bytes, bytes, group, keys);
    if (request.output == IdentifyOutput::encode) {
      for (size_t i = 0; i < group; ++i) {
        const uint64_t offset = request.offset + (first + done + i) * request.extent_bytes;
        encoding_block(request.initial_value.data(), offset / request.block_bytes, blocks + i * kBlockBytes);
      }
      aes128_encrypt(keys, blocks, group, blocks);
    } else {
      aes128_decrypt(keys, request.input + (first + done) * kBlockBytes, group, blocks);
    }
    for (size_t i = 0; i < group; ++i) {
      std::memcpy(out + (done + i) * request.width, blocks + i * kBlockBytes, request.width);
    }
  }
}

IdentifyPool::IdentifyPool(CompletionQueue& completions, size_t threads_max)
    : completions_(completions), threads_max_(threads_max) {}

IdentifyPool::~IdentifyPool() {
  std::vector<std::thread> threads;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    threads.swap(threads_);
  }
  wake_.notify_all();
  for (std::thread& thread : threads) thread.join();
}

void IdentifyPool::submit(IdentifyRequest&& request) {
  auto job = std::make_shared<Job>();
  job->count = request.count();
  const uint64_t chunk = std::max<uint64_t>(request.program->lanes(), kChunkBytes / request.extent_bytes);
  job->chunk_extents = static_cast<uint32_t>(std::min<uint64_t>(chunk, job->count));
  job->undone = job->count;
  job->request = std::move(request);

  std::lock_guard<std::mutex> lock(mutex_);
  const size_t chunks = (job->count + job->chunk_extents - 1) / job->chunk_extents;
  jobs_.push_back(std::move(job));
  for (size_t i = 0; i < chunks && i < threads_max_; ++i) {
    if (i < idle_) {
      wake_.notify_one();
    } else if (threads_.size() < threads_max_ && !stopping_) {
      threads_.emplace_back([this] { work(); });
    }
  }
}

void IdentifyPool::work() {
  Worker worker;
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    while (jobs_.empty() && !stopping_) {
      ++idle_;
      wake_.wait(lock);
      --idle_;
    }
    if (stopping_) return;
    const std::shared_ptr<Job> job = jobs_.front();
    const uint32_t first = job->next;
    const uint32_t count = std::min(job->chunk_extents, job->count - first);
    job->next += count;
    if (job->next == job->count) jobs_.pop_front();
    lock.unlock();

    worker.process(*job, first, count);
    if (job->undone.fetch_sub(count) == count) {
      Completion done;
      done.tag = job->request.tag;
      done.result = std::min(job->count, job->failed_at.load());
      if (done.result < static_cast<int64_t>(job->count)) {
        done.error = job->failure;
        done.detail = static_cast<int64_t>(job->failure_offset);
      }
      job->request.file.reset();
      completions_.push(done);
    }
    lock.lock();
  }
}

}  // namespace lunsync
