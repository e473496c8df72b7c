// CRC-32C and CRC-64/XZ by folding eight 128-bit registers, and CRC-32C by the crc32 instruction on three
// streams.
#if defined(__x86_64__)

#include "digest/crc_fold.h"
#include "digest/kernels.h"

namespace lunsync {

namespace {

constexpr size_t kPrefetchBytes = 2048;

template <class R>
typename R::Word fold(typename R::Word crc, const uint8_t* data, size_t bytes) {
  if (bytes < R::fold_min) return R::plain(crc, data, bytes);
  constexpr size_t kStep = 8 * 16;
  __m128i x[8];
  const typename R::Word before = ~crc;
  x[0] = _mm_xor_si128(load128(data), _mm_cvtsi64_si128(static_cast<long long>(before)));
  if (bytes < 2 * kStep) return fold_end<R>(x[0], data + 16, bytes - 16);
  for (size_t i = 1; i < 8; ++i) x[i] = load128(data + 16 * i);
  size_t at = kStep;
  for (; at + kStep <= bytes; at += kStep) {
    _mm_prefetch(reinterpret_cast<const char*>(data + at + kPrefetchBytes), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(data + at + kPrefetchBytes + 64), _MM_HINT_T0);
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; ++i) x[i] = fold128<R, 1024>(x[i], load128(data + at + 16 * i));
  }
  for (size_t i = 1; i < 8; ++i) x[i] = fold128<R, 128>(x[i - 1], x[i]);
  return fold_end<R>(x[7], data + at, bytes - at);
}

// Multiplies a CRC register by x^(8 * bytes): `k` is x^(8 * bytes - 33), as product and crc32 add 1 and 32.
inline uint32_t carry_over(uint32_t crc, uint64_t k) {
  const __m128i product = _mm_clmulepi64_si128(_mm_cvtsi32_si128(static_cast<int>(crc)),
                                               _mm_cvtsi64_si128(static_cast<long long>(k >> 32)), 0x00);
  return static_cast<uint32_t>(_mm_crc32_u64(0, static_cast<uint64_t>(_mm_cvtsi128_si64(product))));
}

// The instruction takes three cycles, but one can begin in each: three neighbouring stretches at once.
template <size_t stretch>
inline uint32_t three_streams(uint32_t crc, const uint8_t*& data, size_t& bytes) {
  constexpr uint64_t over_one = Crc32cRules::power(8 * stretch - 33);
  constexpr uint64_t over_two = Crc32cRules::power(16 * stretch - 33);
  for (; bytes >= 3 * stretch; bytes -= 3 * stretch, data += 3 * stretch) {
    uint64_t a = crc, b = 0, c = 0;
    for (size_t at = 0; at < stretch; at += 8) {
      a = _mm_crc32_u64(a, load64(data + at));
      b = _mm_crc32_u64(b, load64(data + stretch + at));
      c = _mm_crc32_u64(c, load64(data + 2 * stretch + at));
    }
    crc = carry_over(static_cast<uint32_t>(a), over_two) ^ carry_over(static_cast<uint32_t>(b), over_one) ^
          static_cast<uint32_t>(c);
  }
  return crc;
}

uint32_t crc32c_instructions(uint32_t crc, const uint8_t* data, size_t bytes) {
  crc = ~crc;
  crc = three_streams<1024>(crc, data, bytes);
  crc = three_streams<128>(crc, data, bytes);
  return ~crc32c_instruction(crc, data, bytes);
}

uint32_t crc32c_one_stream(uint32_t crc, const uint8_t* data, size_t bytes) {
  return ~crc32c_instruction(~crc, data, bytes);
}

bool has_sse(const CpuFeatures& cpu) { return cpu.sse; }
bool has_pclmul(const CpuFeatures& cpu) { return cpu.pclmul; }

}  // namespace

const Kernel kCrc32cPclmul = crc_kernel<fold<Crc32cRules>>("pclmul", Algorithm::crc32c, has_pclmul);
const Kernel kCrc32cThree = crc_kernel<crc32c_instructions>("sse4.2x3", Algorithm::crc32c, has_pclmul);
const Kernel kCrc32cOne = crc_kernel<crc32c_one_stream>("sse4.2", Algorithm::crc32c, has_sse);
const Kernel kCrc64Pclmul = crc_kernel<fold<Crc64Rules>>("pclmul", Algorithm::crc64, has_pclmul);

}  // namespace lunsync

#endif
