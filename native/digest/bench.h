// Throughput of kernels and of memory on this machine, in GB/s (10^9 bytes), by one thread.
#pragma once

#include <cstddef>

#include "digest/digest.h"

namespace lunsync {

// Extents of `extent_bytes` in a buffer of about `total_bytes`, passed over for at least `milliseconds`. Data
// is as cold as the buffer is large. Lanes, slices and stagger are those of identify.cc. 0 if the memory is
// lacking.
double digest_benchmark(Algorithm algorithm, const char* kernel, size_t extent_bytes, size_t total_bytes,
                        double milliseconds);

// Reading memory with the widest loads, doing nothing with the data.
double memory_read_benchmark(size_t total_bytes, double milliseconds);

}  // namespace lunsync
