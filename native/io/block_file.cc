#include "io/block_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>

namespace lunsync {

namespace {

// Moves an I/O vector on by `bytes` that were transferred; returns false once it is empty.
bool advance(iovec** iov, int* count, size_t bytes) {
  while (*count > 0 && bytes >= (*iov)->iov_len) {
    bytes -= (*iov)->iov_len;
    ++*iov;
    --*count;
  }
  if (*count == 0) return false;
  (*iov)->iov_base = static_cast<char*>((*iov)->iov_base) + bytes;
  (*iov)->iov_len -= bytes;
  return true;
}

size_t bytes_of(const iovec* iov, int count) {
  size_t bytes = 0;
  for (int i = 0; i < count; ++i) bytes += iov[i].iov_len;
  return bytes;
}

constexpr int kIovMax = 1024;

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};

}  // namespace

BlockFile::~BlockFile() { close(); }

void BlockFile::close() {
  if (direct_fd_ >= 0) ::close(direct_fd_);
  if (fd_ >= 0) ::close(fd_);
  fd_ = direct_fd_ = -1;
}

int BlockFile::open(const std::string& path, bool writable) {
  struct stat st;
  if (::stat(path.c_str(), &st) < 0) return -errno;
  const bool block = S_ISBLK(st.st_mode);
  if (!block && !S_ISREG(st.st_mode)) return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;

  int flags = O_CLOEXEC | O_NOCTTY | (writable ? O_RDWR : O_RDONLY);
  if (block && writable) flags |= O_EXCL;
  fd_ = ::open(path.c_str(), flags);
  if (fd_ < 0) return -errno;
  // What was opened is what is described, even if the path was replaced in between.
  if (::fstat(fd_, &st) < 0) return -errno;
  if (S_ISBLK(st.st_mode) != block) return -EINVAL;

  info_.block_device = block;
  info_.writable = writable;
  info_.device = st.st_dev;
  info_.inode = st.st_ino;
  info_.special_device = block ? st.st_rdev : 0;
  if (block) {
    int logical = 512;
    unsigned int physical = 512;
    uint64_t bytes = 0;
    if (::ioctl(fd_, BLKGETSIZE64, &bytes) < 0) return -errno;
    ::ioctl(fd_, BLKSSZGET, &logical);
    ::ioctl(fd_, BLKPBSZGET, &physical);
    info_.bytes = bytes;
    info_.logical_block_bytes = static_cast<uint32_t>(logical);
    info_.physical_block_bytes = physical;
    // BLKZEROOUT unmaps where the device guarantees zeros afterwards, and writes zeros where it does not.
    info_.can_unmap = true;
  } else {
    info_.bytes = static_cast<uint64_t>(st.st_size);
    info_.physical_block_bytes = static_cast<uint32_t>(std::max<long>(st.st_blksize, 512));
    info_.can_unmap = true;
    if (writable) {
      struct flock lock = {};
      lock.l_type = F_WRLCK;
      lock.l_whence = SEEK_SET;  // from 0 to the end, wherever that will be
      if (::fcntl(fd_, F_OFD_SETLK, &lock) < 0) return errno == EACCES ? -EAGAIN : -errno;
    }
  }
  struct statfs file_system;
  memory_file_ = !block && ::fstatfs(fd_, &file_system) == 0 && file_system.f_type == TMPFS_MAGIC;
  const std::string self = "/proc/self/fd/" + std::to_string(fd_);
  direct_fd_ = ::open(self.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);  // -1: no direct I/O here
  return 0;
}

void BlockFile::drop_cached(uint64_t offset, uint64_t bytes) const {
  // Dirty pages can't be dropped, so they are written first.
  ::sync_file_range(fd_, offset, bytes,
                    SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
  ::posix_fadvise(fd_, offset, bytes, POSIX_FADV_DONTNEED);
}

int BlockFile::read(uint64_t offset, iovec* iov, int count, bool direct) const {
  int fd = direct ? direct_fd_ : fd_;
  if (fd < 0) {
    drop_cached(offset, bytes_of(iov, count));
    fd = fd_;
  }
  while (count > 0) {
    const ssize_t n = ::preadv(fd, iov, std::min(count, kIovMax), static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno == EINVAL && fd == direct_fd_) {  // memory or tail not aligned enough for it
        drop_cached(offset, bytes_of(iov, count));
        fd = fd_;
        continue;
      }
      return -errno;
    }
    if (n == 0) return -ENXIO;  // shorter than it was when it was opened
    offset += static_cast<uint64_t>(n);
    if (!advance(&iov, &count, static_cast<size_t>(n))) return 0;
  }
  return 0;
}

// Whether a part of a file on tmpfs can be read or written without swapping: 0, -EAGAIN or -EOPNOTSUPP.
int BlockFile::needs_no_device(uint64_t offset, uint64_t bytes, bool writing) const {
  // cachestat(2), since Linux 6.5; this C library has neither a wrapper nor its structures.
  constexpr long kCachestat = 451;
  struct {
    uint64_t offset;
    uint64_t bytes;
  } range = {offset, bytes};
  struct {
    uint64_t cached;
    uint64_t dirty;
    uint64_t writeback;
    uint64_t evicted;  // on tmpfs: swapped out; holes are neither cached nor evicted
    uint64_t recently_evicted;
  } pages = {};
  if (::syscall(kCachestat, fd_, &range, &pages, 0) < 0) return -EOPNOTSUPP;
  if (!writing) return pages.evicted == 0 ? 0 : -EAGAIN;
  // Into holes the threads write: the memory for them may have to be made free first.
  static const uint64_t page_bytes = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  return pages.cached == (offset + bytes - 1) / page_bytes - offset / page_bytes + 1 ? 0 : -EAGAIN;
}

int BlockFile::read_cached(uint64_t offset, const iovec* iov, int count) const {
  const size_t bytes = bytes_of(iov, count);
  if (memory_file_) {
    const int error = needs_no_device(offset, bytes, false);
    if (error < 0) return error;
  }
  const ssize_t n = ::preadv2(fd_, iov, count, static_cast<off_t>(offset), memory_file_ ? 0 : RWF_NOWAIT);
  if (n == static_cast<ssize_t>(bytes)) return 0;
  return n < 0 && errno == EOPNOTSUPP ? -EOPNOTSUPP : -EAGAIN;
}

int BlockFile::write_cached(uint64_t offset, const iovec* iov, int count) const {
  const size_t bytes = bytes_of(iov, count);
  if (memory_file_) {
    const int error = needs_no_device(offset, bytes, true);
    if (error < 0) return error;
  }
  const ssize_t n = ::pwritev2(fd_, iov, count, static_cast<off_t>(offset), memory_file_ ? 0 : RWF_NOWAIT);
  if (n == static_cast<ssize_t>(bytes)) return 0;
  return n < 0 && errno == EOPNOTSUPP ? -EOPNOTSUPP : -EAGAIN;
}

int BlockFile::write(uint64_t offset, iovec* iov, int count, bool durable) const {
  while (count > 0) {
    const ssize_t n = ::pwritev2(fd_, iov, std::min(count, kIovMax), static_cast<off_t>(offset),
                                 durable ? RWF_DSYNC : 0);
    if (n < 0) {
      if (errno == EINTR) continue;
      return -errno;
    }
    if (n == 0) return -EIO;
    offset += static_cast<uint64_t>(n);
    if (!advance(&iov, &count, static_cast<size_t>(n))) return 0;
  }
  return 0;
}

int BlockFile::zero(uint64_t offset, uint64_t bytes, bool unmap) const {
  if (bytes == 0) return 0;
  // Of a block device a hole is asked for where zeros are certain to be read from it; the kernel refuses what is not so.
  if (!info_.block_device || unmap) {
    const int rc = allocate(offset, bytes, unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
    if (rc == 0) return 0;
    if (rc != -EOPNOTSUPP && rc != -ENOSYS) return rc;
  }
  if (info_.block_device) {
    uint64_t range[2] = {offset, bytes};
    int rc;
    do {
      rc = ::ioctl(fd_, BLKZEROOUT, range);  // never unmaps
    } while (rc < 0 && errno == EINTR);
    if (rc == 0) return 0;
    if (errno != EOPNOTSUPP && errno != ENOTTY && errno != EINVAL) return -errno;
  }
  return zero_by_writing(offset, bytes);
}

int BlockFile::allocate(uint64_t offset, uint64_t bytes, int mode) const {
  int rc;
  do {
    rc = ::fallocate(fd_, mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(bytes));
  } while (rc < 0 && errno == EINTR);
  return rc < 0 ? -errno : 0;
}

int BlockFile::zero_by_writing(uint64_t offset, uint64_t bytes) const {
  constexpr size_t kZeros = 1 << 20;
  static const std::unique_ptr<void, FreeDeleter> zeros(std::calloc(1, kZeros));
  if (!zeros) return -ENOMEM;
  while (bytes > 0) {
    iovec iov = {zeros.get(), static_cast<size_t>(std::min<uint64_t>(bytes, kZeros))};
    const uint64_t step = iov.iov_len;
    const int rc = write(offset, &iov, 1, false);
    if (rc < 0) return rc;
    offset += step;
    bytes -= step;
  }
  return 0;
}

int BlockFile::flush() const {
  int rc;
  do {
    rc = ::fdatasync(fd_);
  } while (rc < 0 && errno == EINTR);
  return rc < 0 ? -errno : 0;
}

int BlockFile::grow(uint64_t bytes) const {
  if (info_.block_device) return -EINVAL;
  struct stat st;
  if (::fstat(fd_, &st) < 0) return -errno;
  if (static_cast<uint64_t>(st.st_size) >= bytes) return 0;
  int rc;
  do {
    rc = ::ftruncate(fd_, static_cast<off_t>(bytes));
  } while (rc < 0 && errno == EINTR);
  return rc < 0 ? -errno : 0;
}

int BlockFile::next_data(uint64_t offset, uint64_t end, DataRange* range) const {
  *range = {offset, end - offset};
  if (info_.block_device) return 0;
  const off_t data = ::lseek(fd_, static_cast<off_t>(offset), SEEK_DATA);
  if (data < 0) {
    if (errno == ENXIO) {  // a hole up to the end of the file, or behind it
      struct stat st;
      if (::fstat(fd_, &st) < 0) return -errno;
      if (static_cast<uint64_t>(st.st_size) < end) return -ENXIO;  // shorter than it was when it was opened
      *range = {end, 0};
      return 0;
    }
    return errno == EINVAL ? 0 : -errno;
  }
  if (static_cast<uint64_t>(data) >= end) {
    *range = {end, 0};
    return 0;
  }
  const off_t hole = ::lseek(fd_, data, SEEK_HOLE);
  const uint64_t stop = hole < 0 ? end : std::min(end, static_cast<uint64_t>(hole));
  *range = {static_cast<uint64_t>(data), stop - static_cast<uint64_t>(data)};
  return 0;
}

int BlockFile::next_data_for_reading(uint64_t offset, uint64_t end, DataRange* range) const {
  {
    std::lock_guard<std::mutex> lock(known_data_mutex_);
    if (offset >= known_data_.offset && offset < known_data_.offset + known_data_.bytes) {
      *range = {offset, std::min(end, known_data_.offset + known_data_.bytes) - offset};
      return 0;
    }
  }
  // SEEK_HOLE walks all pages of a run on some file systems (tmpfs): once for the run, not once for every part of it.
  // The file may have grown since it was opened.
  struct stat st;
  const bool sized = !info_.block_device && ::fstat(fd_, &st) == 0;
  const uint64_t bytes = sized ? static_cast<uint64_t>(st.st_size) : info_.bytes;
  const int error = next_data(offset, std::max(end, bytes), range);
  if (error < 0) return error;
  if (range->bytes > 0) {
    std::lock_guard<std::mutex> lock(known_data_mutex_);
    known_data_ = *range;
  }
  if (range->offset >= end) *range = {end, 0};
  range->bytes = std::min(range->bytes, end - range->offset);
  return 0;
}

uint64_t BlockFile::first_unreadable(uint64_t offset, uint64_t bytes, uint32_t block_bytes, bool direct) const {
  std::unique_ptr<void, FreeDeleter> block(std::aligned_alloc(kDirectAlignment, std::max<size_t>(block_bytes, kDirectAlignment)));
  if (!block) return offset;
  const auto search = [&](bool past_cache) -> std::optional<uint64_t> {
    for (uint64_t at = offset; at < offset + bytes; at += block_bytes) {
      iovec iov = {block.get(), static_cast<size_t>(std::min<uint64_t>(block_bytes, offset + bytes - at))};
      const int error = read(at, &iov, 1, past_cache);
      if (error == -EINVAL && past_cache) return std::nullopt;  // the device's blocks are larger than the volume's
      if (error < 0) return at;
    }
    return std::nullopt;
  };
  // The page cache knows pages only: past it, a failure is the block's own.
  if (direct_fd_ >= 0) {
    if (const auto at = search(true)) return *at;
  }
  if (!direct) {
    if (const auto at = search(false)) return *at;
  }
  return offset;
}

}  // namespace lunsync
