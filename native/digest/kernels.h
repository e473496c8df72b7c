// Every kernel by its name in the program, for the list in dispatch.cc; the functions that kernels share; and
// how a CRC function becomes a kernel.
#pragma once

#include "digest/kernel.h"

namespace lunsync {

extern const Kernel kMd5Portable, kSha1Portable, kSha256Portable, kSha512Portable;
extern const Kernel kCrc32cPortable, kCrc64Portable;

// One message each, on any CPU.
void md5_portable(void* state, const uint8_t* const* rows, size_t bytes);
void sha1_portable(void* state, const uint8_t* const* rows, size_t bytes);
void sha256_portable(void* state, const uint8_t* const* rows, size_t bytes);
void sha512_portable(void* state, const uint8_t* const* rows, size_t bytes);

#if defined(__x86_64__)

extern const Kernel kMd5Avx512, kMd5Avx2;
extern const Kernel kSha1Avx512Ni, kSha1Avx512, kSha1Avx2Ni, kSha1Avx2, kSha1Ni;
extern const Kernel kSha256Avx512Ni, kSha256Avx512, kSha256Ni, kSha256Avx2;
extern const Kernel kSha512Avx512, kSha512Avx2;
extern const Kernel kCrc32cVpclmul, kCrc32cPclmul, kCrc32cThree, kCrc32cOne;
extern const Kernel kCrc64Vpclmul, kCrc64Pclmul;

// Two messages or one, only where cpu_features().sha.
void sha1_ni_2(void* state, const uint8_t* const* rows, size_t bytes);
void sha1_ni_1(void* state, const uint8_t* const* rows, size_t bytes);
void sha256_ni_2(void* state, const uint8_t* const* rows, size_t bytes);
void sha256_ni_1(void* state, const uint8_t* const* rows, size_t bytes);

#endif

// These gain nothing from lanes, but what is done with their values (keys, AES) gains from groups.
constexpr size_t kSingleLanePreferred = 16;

namespace {

template <auto function>
void crc_advance(void* state, const uint8_t* const* rows, size_t bytes) {
  uint64_t* crc = static_cast<uint64_t*>(state);
  *crc = function(static_cast<decltype(function(0, nullptr, 0))>(*crc), rows[0], bytes);
}

template <auto function>
constexpr Kernel crc_kernel(const char* name, Algorithm algorithm, bool (*usable)(const CpuFeatures&)) {
  return {name, algorithm, kSingleLanePreferred, usable, {{1, 1, crc_advance<function>}}};
}

}  // namespace
}  // namespace lunsync
