// SHA-256 and SHA-512 on AVX-512: 16 or 8 messages in each register.
#if defined(__x86_64__)

#include "digest/kernels.h"
#include "digest/lanes_avx512.h"
#include "digest/lanes_portable.h"
#include "digest/sha2_lanes.h"

namespace lunsync {
namespace {
bool usable(const CpuFeatures& cpu) { return cpu.avx512; }
}

const Kernel kSha256Avx512 = {"avx512", Algorithm::sha256, 16, usable,
                              {{16, 3, Sha2<Sha256Rules, Lanes16x32, 1>::advance},
                               {1, 1, Sha2<Sha256Rules, OneLane<uint32_t>, 1>::advance}}};
const Kernel kSha256Avx512x2 = {"avx512x2", Algorithm::sha256, 32, usable,
                              {{32, 17, Sha2<Sha256Rules, Lanes16x32, 2>::advance},{16, 3, Sha2<Sha256Rules, Lanes16x32, 1>::advance},
                               {1, 1, Sha2<Sha256Rules, OneLane<uint32_t>, 1>::advance}}};
const Kernel kSha512Avx512 = {"avx512", Algorithm::sha512, 8, usable,
                              {{8, 2, Sha2<Sha512Rules, Lanes8x64, 1>::advance},
                               {1, 1, Sha2<Sha512Rules, OneLane<uint64_t>, 1>::advance}}};
const Kernel kSha512Avx512x2 = {"avx512x2", Algorithm::sha512, 16, usable,
                              {{16, 9, Sha2<Sha512Rules, Lanes8x64, 2>::advance},{8, 2, Sha2<Sha512Rules, Lanes8x64, 1>::advance},
                               {1, 1, Sha2<Sha512Rules, OneLane<uint64_t>, 1>::advance}}};

}  // namespace lunsync

#endif
