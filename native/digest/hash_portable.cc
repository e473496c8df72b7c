// MD5, SHA-1, SHA-256 and SHA-512 for any CPU, one message after another.
#include "digest/kernels.h"
#include "digest/lanes_portable.h"
#include "digest/md5_lanes.h"
#include "digest/sha1_lanes.h"
#include "digest/sha2_lanes.h"

namespace lunsync {

namespace {

using Word32 = OneLane<uint32_t>;
using Word64 = OneLane<uint64_t>;

// One lane would do for hashing, but what is done with the values (keys, AES) gains from groups.
constexpr size_t kPreferred = 16;

bool always(const CpuFeatures&) { return true; }

}  // namespace

const Kernel kMd5Portable = {"portable", Algorithm::md5, kPreferred, always, {{1, 1, Md5<Word32, 1>::advance}}};
const Kernel kSha1Portable = {"portable", Algorithm::sha1, kPreferred, always, {{1, 1, Sha1<Word32, 1>::advance}}};
const Kernel kSha256Portable = {
    "portable", Algorithm::sha256, kPreferred, always, {{1, 1, Sha2<Sha256Rules, Word32, 1>::advance}}};
const Kernel kSha512Portable = {
    "portable", Algorithm::sha512, kPreferred, always, {{1, 1, Sha2<Sha512Rules, Word64, 1>::advance}}};

}  // namespace lunsync
