// One open regular file or block device: positioned reads and writes, zeroing, unmapping, flushing.
//
// Guarantees: every call either does the whole of what it was asked or returns the negative errno of what went
// wrong; short transfers are continued, EINTR is retried. What is past the end of a file that has shrunk is
// -ENXIO, never silently zeros or a hole. Nothing is durable before flush() (or a write with `durable`) returned 0.
// Thread-safe: all calls are positioned, no state changes after open() but for `distrust_cache`. `info().bytes` is what
// it was when it was opened.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>

namespace lunsync {

struct BlockFileInfo {
  bool block_device = false;
  bool writable = false;
  uint64_t bytes = 0;
  uint32_t logical_block_bytes = 512;   // the least unit of direct I/O
  uint32_t physical_block_bytes = 4096;
  uint64_t device = 0;         // st_dev
  uint64_t inode = 0;          // st_ino
  uint64_t special_device = 0; // st_rdev of a block device
  bool can_unmap = false;      // holes can be punched, or the device discards and reads zeros
};

// How much of a range holds data, from SEEK_DATA and SEEK_HOLE.
struct DataRange {
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

class BlockFile {
 public:
  BlockFile() = default;
  ~BlockFile();
  BlockFile(const BlockFile&) = delete;
  BlockFile& operator=(const BlockFile&) = delete;

  // 0 or a negative errno. A block device that is opened for writing is opened exclusively: -EBUSY says that
  // it is mounted or claimed. A file that is opened for writing is locked against every other locker
  // (open file description lock, as QEMU's): -EAGAIN says that somebody holds it.
  int open(const std::string& path, bool writable);
  void close();

  const BlockFileInfo& info() const { return info_; }

  // `direct` reads past the page cache, from the medium; offset and length must then be multiples of the
  // logical block size, and the memory aligned to kDirectAlignment. Falls back to dropping the cached pages
  // first where the file system has no direct I/O.
  int read(uint64_t offset, iovec* iov, int iov_count, bool direct) const;
  // Only where it takes no waiting for a device: -EAGAIN if it would, -EOPNOTSUPP where this can't be told. A write
  // that was refused may have been done in part: the whole of it is to be done again.
  int read_cached(uint64_t offset, const iovec* iov, int iov_count) const;
  int write_cached(uint64_t offset, const iovec* iov, int iov_count) const;
  int write(uint64_t offset, iovec* iov, int iov_count, bool durable) const;
  // Makes a range read as zeros: by unmapping it where that can be done, else by writing.
  int zero(uint64_t offset, uint64_t bytes, bool unmap) const;
  int flush() const;
  // Gives a regular file this length, by a hole at its end, if it is shorter; it never gets shorter. Durable after
  // flush(). A block device is -EINVAL.
  int grow(uint64_t bytes) const;

  // The first run of data at or behind `offset` (bytes 0 if there is none before `end`). Where holes are not
  // known, all is data.
  int next_data(uint64_t offset, uint64_t end, DataRange* range) const;

  // Likewise, for who reads what is data anyway: a run that was found before may have been punched meanwhile.
  int next_data_for_reading(uint64_t offset, uint64_t end, DataRange* range) const;

  // The first unreadable block in a range whose read failed; block_bytes is the step. Returns its offset, or
  // `offset` if every block can be read now.
  uint64_t first_unreadable(uint64_t offset, uint64_t bytes, uint32_t block_bytes, bool direct) const;

  // After a failed flush the page cache may hold what the medium does not: from then on every digest of this
  // file is taken from the medium.
  void distrust_cache() { cache_distrusted_.store(true, std::memory_order_relaxed); }
  bool cache_distrusted() const { return cache_distrusted_.load(std::memory_order_relaxed); }

 private:
  void drop_cached(uint64_t offset, uint64_t bytes) const;
  int needs_no_device(uint64_t offset, uint64_t bytes, bool writing) const;
  int zero_by_writing(uint64_t offset, uint64_t bytes) const;
  // fallocate() of a range within the file or device.
  int allocate(uint64_t offset, uint64_t bytes, int mode) const;

  int fd_ = -1;
  int direct_fd_ = -1;
  // On tmpfs: its pages are the medium, unless they were swapped out.
  bool memory_file_ = false;
  BlockFileInfo info_;
  std::atomic<bool> cache_distrusted_{false};
  mutable std::mutex known_data_mutex_;
  mutable DataRange known_data_{0, 0};
};

constexpr size_t kDirectAlignment = 4096;

}  // namespace lunsync
