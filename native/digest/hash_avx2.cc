// MD5, SHA-1, SHA-256 and SHA-512 on AVX2: 8 or 4 messages in each register.
#if defined(__x86_64__)

#include "digest/kernels.h"
#include "digest/lanes_avx2.h"
#include "digest/md5_lanes.h"
#include "digest/sha1_lanes.h"
#include "digest/sha2_lanes.h"

namespace lunsync {

namespace {

constexpr Advance kSha1Lanes = Sha1<Lanes8x32, 1>::advance;
constexpr Advance kSha256Lanes = Sha2<Sha256Rules, Lanes8x32, 1>::advance;
constexpr Advance kSha512Lanes = Sha2<Sha512Rules, Lanes4x64, 1>::advance;

bool usable(const CpuFeatures& cpu) { return cpu.avx2; }
bool usable_with_sha(const CpuFeatures& cpu) { return cpu.avx2 && cpu.sha; }

}  // namespace

const Kernel kMd5Avx2 = {"avx2", Algorithm::md5, 16, usable,
                         {{16, 9, Md5<Lanes8x32, 2>::advance},
                          {8, 2, Md5<Lanes8x32, 1>::advance},
                          {1, 1, md5_portable}}};
const Kernel kSha1Avx2Ni = {"avx2+sha", Algorithm::sha1, 16, usable_with_sha,
                            {{8, 5, kSha1Lanes}, {2, 2, sha1_ni_2}, {1, 1, sha1_ni_1}}};
const Kernel kSha1Avx2 = {"avx2", Algorithm::sha1, 16, usable, {{8, 3, kSha1Lanes}, {1, 1, sha1_portable}}};
const Kernel kSha256Avx2 = {"avx2", Algorithm::sha256, 16, usable,
                            {{8, 3, kSha256Lanes}, {1, 1, sha256_portable}}};
const Kernel kSha512Avx2 = {"avx2", Algorithm::sha512, 16, usable,
                            {{4, 3, kSha512Lanes}, {1, 1, sha512_portable}}};

}  // namespace lunsync

#endif
