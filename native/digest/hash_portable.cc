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

bool always(const CpuFeatures&) { return true; }

constexpr Kernel one_lane(Algorithm algorithm, Advance advance) {
  return {"portable", algorithm, kSingleLanePreferred, always, {{1, 1, advance}}};
}

}  // namespace

void md5_portable(void* state, const uint8_t* const* rows, size_t bytes) {
  Md5<Word32, 1>::advance(state, rows, bytes);
}

void sha1_portable(void* state, const uint8_t* const* rows, size_t bytes) {
  Sha1<Word32, 1>::advance(state, rows, bytes);
}

void sha256_portable(void* state, const uint8_t* const* rows, size_t bytes) {
  Sha2<Sha256Rules, Word32, 1>::advance(state, rows, bytes);
}

void sha512_portable(void* state, const uint8_t* const* rows, size_t bytes) {
  Sha2<Sha512Rules, Word64, 1>::advance(state, rows, bytes);
}

const Kernel kMd5Portable = one_lane(Algorithm::md5, md5_portable);
const Kernel kSha1Portable = one_lane(Algorithm::sha1, sha1_portable);
const Kernel kSha256Portable = one_lane(Algorithm::sha256, sha256_portable);
const Kernel kSha512Portable = one_lane(Algorithm::sha512, sha512_portable);

}  // namespace lunsync
