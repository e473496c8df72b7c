// MD5 and SHA-1 on AVX-512: 16 messages in each register. MD5's steps wait for each other, so two registers
// are interleaved where there are messages enough; SHA-1 keeps the CPU busy with one.
#if defined(__x86_64__)

#include "digest/kernels.h"
#include "digest/lanes_avx512.h"
#include "digest/md5_lanes.h"
#include "digest/sha1_lanes.h"

namespace lunsync {

namespace {

constexpr Advance kSha1Lanes = Sha1<Lanes16x32, 1>::advance;

bool usable(const CpuFeatures& cpu) { return cpu.avx512; }
bool usable_with_sha(const CpuFeatures& cpu) { return cpu.avx512 && cpu.sha; }

}  // namespace

const Kernel kMd5Avx512 = {"avx512", Algorithm::md5, 32, usable,
                           {{32, 17, Md5<Lanes16x32, 2>::advance}, {16, 1, Md5<Lanes16x32, 1>::advance}}};
const Kernel kSha1Avx512Ni = {"avx512+sha", Algorithm::sha1, 16, usable_with_sha,
                              {{16, 5, kSha1Lanes}, {2, 2, sha1_ni_2}, {1, 1, sha1_ni_1}}};
const Kernel kSha1Avx512 = {"avx512", Algorithm::sha1, 16, usable,
                            {{16, 2, kSha1Lanes}, {1, 1, sha1_portable}}};

}  // namespace lunsync

#endif
