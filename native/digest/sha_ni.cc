// SHA-1 and SHA-256 by the CPU's SHA instructions.
#if defined(__x86_64__)

#include "digest/sha_ni_rounds.h"

#include "digest/kernels.h"

namespace lunsync {

namespace {
bool usable(const CpuFeatures& cpu) { return cpu.sha; }
}  // namespace

void sha1_ni_1(void* state, const uint8_t* const* rows, size_t bytes) { Sha1Ni<1>::advance(state, rows, bytes); }
void sha1_ni_2(void* state, const uint8_t* const* rows, size_t bytes) { Sha1Ni<2>::advance(state, rows, bytes); }
void sha1_ni_4(void* state, const uint8_t* const* rows, size_t bytes) { Sha1Ni<4>::advance(state, rows, bytes); }
void sha1_ni_3(void* state, const uint8_t* const* rows, size_t bytes) { Sha1Ni<3>::advance(state, rows, bytes); }
void sha256_ni_1(void* state, const uint8_t* const* rows, size_t bytes) { Sha256Ni<1>::advance(state, rows, bytes); }
void sha256_ni_2(void* state, const uint8_t* const* rows, size_t bytes) { Sha256Ni<2>::advance(state, rows, bytes); }
void sha256_ni_3(void* state, const uint8_t* const* rows, size_t bytes) { Sha256Ni<3>::advance(state, rows, bytes); }
void sha256_ni_4(void* state, const uint8_t* const* rows, size_t bytes) { Sha256Ni<4>::advance(state, rows, bytes); }

const Kernel kSha1Ni = {"sha-ni", Algorithm::sha1, 16, usable, {{4, 4, sha1_ni_4}, {3, 3, sha1_ni_3},{2, 2, sha1_ni_2}, {1, 1, sha1_ni_1}}};
const Kernel kSha256Ni = {"sha-ni", Algorithm::sha256, 16, usable,
                          {{4, 4, sha256_ni_4}, {3, 3, sha256_ni_3}, {2, 2, sha256_ni_2}, {1, 1, sha256_ni_1}}};

}  // namespace lunsync

#endif
