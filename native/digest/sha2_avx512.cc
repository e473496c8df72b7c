// SHA-256 and SHA-512 on AVX-512: 16 or 8 messages in one register. Two interleaved registers are slower: the
// message schedule of one fits into the registers, that of two does not.
#if defined(__x86_64__)

#include "digest/kernels.h"
#include "digest/lanes_avx512.h"
#include "digest/sha2_lanes.h"

namespace lunsync {

namespace {

constexpr Advance kSha256Lanes = Sha2<Sha256Rules, Lanes16x32, 1>::advance;
constexpr Advance kSha512Lanes = Sha2<Sha512Rules, Lanes8x64, 1>::advance;

bool usable(const CpuFeatures& cpu) { return cpu.avx512; }
bool usable_with_sha(const CpuFeatures& cpu) { return cpu.avx512 && cpu.sha; }

}  // namespace

const Kernel kSha256Avx512Ni = {"avx512+sha", Algorithm::sha256, 16, usable_with_sha,
                                {{16, 9, kSha256Lanes}, {2, 2, sha256_ni_2}, {1, 1, sha256_ni_1}}};
const Kernel kSha256Avx512 = {"avx512", Algorithm::sha256, 16, usable,
                              {{16, 2, kSha256Lanes}, {1, 1, sha256_portable}}};
const Kernel kSha512Avx512 = {"avx512", Algorithm::sha512, 8, usable,
                              {{8, 2, kSha512Lanes}, {1, 1, sha512_portable}}};

}  // namespace lunsync

#endif
