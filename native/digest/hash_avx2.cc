// MD5, SHA-1, SHA-256 and SHA-512 on AVX2: 8 or 4 messages in each register.
#if defined(__x86_64__)

#include "digest/kernels.h"
#include "digest/lanes_avx2.h"
#include "digest/lanes_portable.h"
#include "digest/md5_lanes.h"
#include "digest/sha1_lanes.h"
#include "digest/sha2_lanes.h"

namespace lunsync {

namespace {

using Word32 = OneLane<uint32_t>;
using Word64 = OneLane<uint64_t>;

bool usable(const CpuFeatures& cpu) { return cpu.avx2; }

}  // namespace

const Kernel kMd5Avx2 = {
    "avx2", Algorithm::md5, 16, usable,
    {{16, 9, Md5<Lanes8x32, 2>::advance}, {8, 3, Md5<Lanes8x32, 1>::advance}, {1, 1, Md5<Word32, 1>::advance}}};
const Kernel kSha1Avx2 = {
    "avx2", Algorithm::sha1, 16, usable, {{8, 3, Sha1<Lanes8x32, 1>::advance}, {1, 1, Sha1<Word32, 1>::advance}}};
const Kernel kSha256Avx2 = {"avx2", Algorithm::sha256, 16, usable,
                            {{8, 3, Sha2<Sha256Rules, Lanes8x32, 1>::advance},
                             {1, 1, Sha2<Sha256Rules, Word32, 1>::advance}}};
const Kernel kSha512Avx2 = {"avx2", Algorithm::sha512, 16, usable,
                            {{4, 2, Sha2<Sha512Rules, Lanes4x64, 1>::advance},
                             {1, 1, Sha2<Sha512Rules, Word64, 1>::advance}}};

}  // namespace lunsync

#endif
