// What this CPU and its operating system can run, as far as kernels ask for it; found out once per process.
//
// The environment variable LUNSYNC_CPU (portable, sse, avx2 or avx512) caps the level: features above it read
// as absent, so that every path can be exercised on one machine. Other values are ignored.
#pragma once

namespace lunsync {

struct CpuFeatures {
  bool sse = false;         // SSE4.2 with the crc32 instruction, SSSE3, SSE4.1
  bool pclmul = false;      // with sse
  bool aes = false;         // with sse
  bool sha = false;         // with sse
  bool avx2 = false;        // and the 256-bit registers saved by the operating system
  bool avx512 = false;      // F, BW, VL and DQ, and the 512-bit registers saved
  bool vpclmul512 = false;  // with avx512 and pclmul
};

const CpuFeatures& cpu_features();

}  // namespace lunsync
