#include "digest/bench.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <vector>

#include "digest/cpu.h"
#include "digest/kernel.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lunsync {

namespace {

constexpr size_t kSliceBytes = 64u << 10;
constexpr size_t kStaggerBytes = 64 * 3;

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<uint8_t, Free>;

Buffer random_buffer(size_t bytes) {
  Buffer buffer(static_cast<uint8_t*>(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096)));
  if (!buffer) return buffer;
  uint64_t x = 88172645463325252u;
  for (size_t i = 0; i < bytes; i += 8) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    for (size_t k = 0; k < 8 && i + k < bytes; ++k) buffer.get()[i + k] = static_cast<uint8_t>(x >> (8 * k));
  }
  return buffer;
}

// Repeats `pass`, which goes over `bytes` bytes, for the given time.
template <class Pass>
double gigabytes_per_second(size_t bytes, double milliseconds, Pass pass) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  double seconds = 0;
  double done = 0;
  do {
    pass();
    done += static_cast<double>(bytes);
    seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  } while (seconds * 1000 < milliseconds);
  return done / seconds / 1e9;
}

volatile uint64_t benchmark_result;  // so that the reads are not optimized away

uint64_t read_portable(const uint8_t* data, size_t bytes) {
  uint64_t sum = 0;
  const uint64_t* words = reinterpret_cast<const uint64_t*>(data);
  for (size_t i = 0; i < bytes / 8; ++i) sum ^= words[i];
  return sum;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) uint64_t read_avx2(const uint8_t* data, size_t bytes) {
  __m256i sums[8] = {};
  for (size_t at = 0; at < bytes; at += sizeof sums) {
    for (size_t i = 0; i < 8; ++i) {
      sums[i] = _mm256_xor_si256(sums[i], _mm256_load_si256(reinterpret_cast<const __m256i*>(data + at) + i));
    }
  }
  for (size_t i = 1; i < 8; ++i) sums[0] = _mm256_xor_si256(sums[0], sums[i]);
  return static_cast<uint64_t>(_mm256_extract_epi64(sums[0], 0));
}

__attribute__((target("avx512f"))) uint64_t read_avx512(const uint8_t* data, size_t bytes) {
  __m512i sums[8] = {};
  for (size_t at = 0; at < bytes; at += sizeof sums) {
    for (size_t i = 0; i < 8; ++i) {
      sums[i] = _mm512_xor_si512(sums[i], _mm512_load_si512(data + at + 64 * i));
    }
  }
  for (size_t i = 1; i < 8; ++i) sums[0] = _mm512_xor_si512(sums[0], sums[i]);
  alignas(64) uint64_t words[8];
  _mm512_store_si512(words, sums[0]);
  return words[0];
}
#endif

}  // namespace

double digest_benchmark(Algorithm algorithm, const char* kernel, size_t extent_bytes, size_t total_bytes,
                        double milliseconds) {
  const Kernel* found = find_kernel(algorithm, kernel);
  const size_t stride = extent_bytes + kStaggerBytes;
  const size_t extents = std::max(total_bytes / stride, found->preferred);
  const Buffer buffer = random_buffer(extents * stride);
  if (!buffer) return 0;
  Batch batch(algorithm, found->preferred, kernel);
  std::vector<const uint8_t*> rows(found->preferred);
  std::vector<uint8_t> digests(found->preferred * kDigestBytesMax);
  return gigabytes_per_second(extents * extent_bytes, milliseconds, [&] {
    for (size_t first = 0; first < extents; first += found->preferred) {
      const size_t lanes = std::min(found->preferred, extents - first);
      batch.start(lanes);
      for (size_t at = 0; at < extent_bytes; at += kSliceBytes) {
        for (size_t lane = 0; lane < lanes; ++lane) rows[lane] = buffer.get() + (first + lane) * stride + at;
        batch.update(rows.data(), std::min(kSliceBytes, extent_bytes - at));
      }
      batch.finish(digests.data(), kDigestBytesMax);
    }
  });
}

double memory_read_benchmark(size_t total_bytes, double milliseconds) {
  const size_t bytes = std::max<size_t>(total_bytes / 4096, 1) * 4096;
  const Buffer buffer = random_buffer(bytes);
  if (!buffer) return 0;
  auto read = read_portable;
#if defined(__x86_64__)
  if (cpu_features().avx2) read = read_avx2;
  if (cpu_features().avx512) read = read_avx512;
#endif
  return gigabytes_per_second(bytes, milliseconds, [&] { benchmark_result = read(buffer.get(), bytes); });
}

}  // namespace lunsync
