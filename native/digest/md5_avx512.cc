// MD5 on AVX-512: 16 messages in each register.
#if defined(__x86_64__)

#include "digest/kernels.h"
#include "digest/lanes_avx512.h"
#include "digest/lanes_portable.h"
#include "digest/md5_lanes.h"

namespace lunsync {

const Kernel kMd5Avx512 = {"avx512", Algorithm::md5, 32, [](const CpuFeatures& cpu) { return cpu.avx512; },
                           {{32, 17, Md5<Lanes16x32, 2>::advance},
                            {16, 3, Md5<Lanes16x32, 1>::advance},
                            {1, 1, Md5<OneLane<uint32_t>, 1>::advance}}};
const Kernel kMd5Avx512x3 = {"avx512x3", Algorithm::md5, 48, [](const CpuFeatures& cpu) { return cpu.avx512; },
                           {{48, 33, Md5<Lanes16x32, 3>::advance},
                            {32, 17, Md5<Lanes16x32, 2>::advance},
                            {16, 3, Md5<Lanes16x32, 1>::advance},
                            {1, 1, Md5<OneLane<uint32_t>, 1>::advance}}};
const Kernel kMd5Avx512x1 = {"avx512x1", Algorithm::md5, 16, [](const CpuFeatures& cpu) { return cpu.avx512; },
                           {
                            {16, 3, Md5<Lanes16x32, 1>::advance},
                            {1, 1, Md5<OneLane<uint32_t>, 1>::advance}}};

}  // namespace lunsync

#endif
