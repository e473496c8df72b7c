// CRC-32C and CRC-64/XZ by folding four 512-bit registers (VPCLMULQDQ).
#if defined(__x86_64__)

#include "digest/crc_fold.h"
#include "digest/kernels.h"

namespace lunsync {

namespace {

constexpr size_t kPrefetchBytes = 2048;

template <class R, unsigned bits>
inline __m512i fold512(__m512i x, __m512i next) {
  const __m512i k = _mm512_broadcast_i32x4(_mm_set_epi64x(static_cast<long long>(Over<R, bits>::second),
                                                          static_cast<long long>(Over<R, bits>::first)));
  const __m512i first = _mm512_clmulepi64_epi128(x, k, 0x00);
  const __m512i second = _mm512_clmulepi64_epi128(x, k, 0x11);
  return _mm512_ternarylogic_epi64(first, second, next, 0x96);  // the XOR of all three
}

template <class R>
typename R::Word fold(typename R::Word crc, const uint8_t* data, size_t bytes) {
  if (bytes < R::fold_min) return R::plain(crc, data, bytes);
  const __m128i before = _mm_cvtsi64_si128(static_cast<long long>(static_cast<typename R::Word>(~crc)));
  __m512i x = _mm512_xor_si512(_mm512_loadu_si512(data), _mm512_zextsi128_si512(before));
  size_t at = 64;
  if (bytes >= 512) {
    __m512i y = _mm512_loadu_si512(data + 64);
    __m512i z = _mm512_loadu_si512(data + 128);
    __m512i w = _mm512_loadu_si512(data + 192);
    for (at = 256; at + 256 <= bytes; at += 256) {
      const uint8_t* from = data + at;
#pragma GCC unroll 4
      for (size_t i = 0; i < 4; ++i) {
        _mm_prefetch(reinterpret_cast<const char*>(from + kPrefetchBytes + 64 * i), _MM_HINT_T1);
      }
      x = fold512<R, 2048>(x, _mm512_loadu_si512(from));
      y = fold512<R, 2048>(y, _mm512_loadu_si512(from + 64));
      z = fold512<R, 2048>(z, _mm512_loadu_si512(from + 128));
      w = fold512<R, 2048>(w, _mm512_loadu_si512(from + 192));
    }
    x = fold512<R, 512>(fold512<R, 512>(fold512<R, 512>(x, y), z), w);
  }
  for (; at + 64 <= bytes; at += 64) x = fold512<R, 512>(x, _mm512_loadu_si512(data + at));
  __m128i last = _mm512_castsi512_si128(x);
  last = fold128<R, 128>(last, _mm512_extracti32x4_epi32(x, 1));
  last = fold128<R, 128>(last, _mm512_extracti32x4_epi32(x, 2));
  last = fold128<R, 128>(last, _mm512_extracti32x4_epi32(x, 3));
  return fold_end<R>(last, data + at, bytes - at);
}

bool usable(const CpuFeatures& cpu) { return cpu.vpclmul512; }

}  // namespace

const Kernel kCrc32cVpclmul = crc_kernel<fold<Crc32cRules>>("vpclmul", Algorithm::crc32c, usable);
const Kernel kCrc64Vpclmul = crc_kernel<fold<Crc64Rules>>("vpclmul", Algorithm::crc64, usable);

}  // namespace lunsync

#endif
