// Which kernel is used for an algorithm: the first of the list that the CPU can run.
#include <cstring>

#include "digest/kernels.h"

namespace lunsync {

namespace {

constexpr Traits kTraits[kAlgorithmCount] = {
    {"md5", 16, 64, 4, 4, 8, false, {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}},
    {"sha1", 20, 64, 4, 5, 8, true, {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0}},
    {"sha256", 32, 64, 4, 8, 8, true,
     {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}},
    {"sha512", 64, 128, 8, 8, 16, true,
     {0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1, 0x510e527fade682d1,
      0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179}},
    {"crc32c", 4, 1, 8, 1, 0, true, {0}},
    {"crc64", 8, 1, 8, 1, 0, true, {0}},
};

}  // namespace

const Kernel* const kKernels[] = {
#if defined(__x86_64__)
    &kMd5Avx512,      &kMd5Avx2,
    &kSha1Avx512Ni,   &kSha1Avx512,    &kSha1Avx2Ni,   &kSha1Avx2,   &kSha1Ni,
    &kSha256Avx512Ni, &kSha256Avx512,  &kSha256Ni,     &kSha256Avx2,
    &kSha512Avx512,   &kSha512Avx2,
    &kCrc32cVpclmul,  &kCrc32cPclmul,  &kCrc32cThree,  &kCrc32cOne,
    &kCrc64Vpclmul,   &kCrc64Pclmul,
#endif
    &kMd5Portable,    &kSha1Portable,  &kSha256Portable, &kSha512Portable,
    &kCrc32cPortable, &kCrc64Portable,
    nullptr,
};

const Traits& traits_of(Algorithm algorithm) { return kTraits[static_cast<size_t>(algorithm)]; }

const char* algorithm_name(Algorithm algorithm) { return traits_of(algorithm).name; }

size_t digest_bytes(Algorithm algorithm) { return traits_of(algorithm).digest_bytes; }

const Kernel* find_kernel(Algorithm algorithm, const char* name) {
  for (const Kernel* const* kernel = kKernels; *kernel != nullptr; ++kernel) {
    if ((*kernel)->algorithm != algorithm || !(*kernel)->usable(cpu_features())) continue;
    if (name == nullptr || std::strcmp(name, (*kernel)->name) == 0) return *kernel;
  }
  return nullptr;
}

size_t lanes_preferred(Algorithm algorithm) { return find_kernel(algorithm, nullptr)->preferred; }

std::vector<const char*> kernels_available(Algorithm algorithm) {
  std::vector<const char*> names;
  for (const Kernel* const* kernel = kKernels; *kernel != nullptr; ++kernel) {
    if ((*kernel)->algorithm != algorithm || !(*kernel)->usable(cpu_features())) continue;
    names.push_back((*kernel)->name);
  }
  return names;
}

const char* kernel_chosen(Algorithm algorithm) { return find_kernel(algorithm, nullptr)->name; }

uint32_t crc32c(uint32_t crc, const uint8_t* data, size_t bytes) {
  static const Kernel* const kernel = find_kernel(Algorithm::crc32c, nullptr);
  uint64_t state = crc;
  kernel->widths[0].advance(&state, &data, bytes);
  return static_cast<uint32_t>(state);
}

}  // namespace lunsync
