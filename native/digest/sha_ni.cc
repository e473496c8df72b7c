// SHA-1 and SHA-256 by the CPU's SHA instructions. With two messages the unit that runs them is busy; three
// or four gain nothing.
#if defined(__x86_64__)

#include "digest/kernels.h"
#include "digest/sha_ni_rounds.h"

namespace lunsync {

namespace {
bool usable(const CpuFeatures& cpu) { return cpu.sha; }
}  // namespace

void sha1_ni_2(void* state, const uint8_t* const* rows, size_t bytes) {
  Sha1Ni<2>::advance(state, rows, bytes);
}

void sha1_ni_1(void* state, const uint8_t* const* rows, size_t bytes) {
  Sha1Ni<1>::advance(state, rows, bytes);
}

void sha256_ni_2(void* state, const uint8_t* const* rows, size_t bytes) {
  Sha256Ni<2>::advance(state, rows, bytes);
}

void sha256_ni_1(void* state, const uint8_t* const* rows, size_t bytes) {
  Sha256Ni<1>::advance(state, rows, bytes);
}

const Kernel kSha1Ni = {"sha", Algorithm::sha1, kSingleLanePreferred, usable,
                        {{2, 2, sha1_ni_2}, {1, 1, sha1_ni_1}}};
const Kernel kSha256Ni = {"sha", Algorithm::sha256, kSingleLanePreferred, usable,
                          {{2, 2, sha256_ni_2}, {1, 1, sha256_ni_1}}};

}  // namespace lunsync

#endif
