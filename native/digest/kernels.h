// Every kernel by its name in the program, for the list in dispatch.cc; and how a CRC function becomes a kernel.
#pragma once

#include "digest/kernel.h"

namespace lunsync {

extern const Kernel kMd5Portable, kSha1Portable, kSha256Portable, kSha512Portable, kCrc32cPortable, kCrc64Portable;

#if defined(__x86_64__)
extern const Kernel kMd5Avx512, kSha1Avx512, kSha256Avx512, kSha512Avx512,kMd5Avx512x3,kMd5Avx512x1,kSha1Avx512x1,kSha256Avx512x2,kSha512Avx512x2;
extern const Kernel kCrc32cVpclmul, kCrc64Vpclmul, kCrc32cPclmul, kCrc64Pclmul, kCrc32cThree, kCrc32cOne;
extern const Kernel kSha1Ni, kSha256Ni, kMd5Avx2, kSha1Avx2, kSha256Avx2, kSha512Avx2;
#endif

// CRCs gain nothing from lanes, but what is done with their values (keys, AES) does.
constexpr size_t kCrcPreferred = 16;

namespace {

template <auto function>
void crc_advance(void* state, const uint8_t* const* rows, size_t bytes) {
  uint64_t* crc = static_cast<uint64_t*>(state);
  *crc = function(static_cast<decltype(function(0, nullptr, 0))>(*crc), rows[0], bytes);
}

template <auto function>
constexpr Kernel crc_kernel(const char* name, Algorithm algorithm, bool (*usable)(const CpuFeatures&)) {
  return {name, algorithm, kCrcPreferred, usable, {{1, 1, crc_advance<function>}}};
}

}  // namespace
}  // namespace lunsync
