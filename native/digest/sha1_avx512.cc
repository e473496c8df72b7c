// SHA-1 on AVX-512: 16 messages in each register.
#if defined(__x86_64__)

#include "digest/kernels.h"
#include "digest/lanes_avx512.h"
#include "digest/lanes_portable.h"
#include "digest/sha1_lanes.h"

namespace lunsync {

const Kernel kSha1Avx512 = {"avx512", Algorithm::sha1, 32, [](const CpuFeatures& cpu) { return cpu.avx512; },
                            {{32, 17, Sha1<Lanes16x32, 2>::advance},
                             {16, 3, Sha1<Lanes16x32, 1>::advance},
                             {1, 1, Sha1<OneLane<uint32_t>, 1>::advance}}};
const Kernel kSha1Avx512x1 = {"avx512x1", Algorithm::sha1, 16, [](const CpuFeatures& cpu) { return cpu.avx512; },
                            {
                             {16, 3, Sha1<Lanes16x32, 1>::advance},
                             {1, 1, Sha1<OneLane<uint32_t>, 1>::advance}}};

}  // namespace lunsync

#endif
