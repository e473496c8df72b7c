#include "digest/cpu.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace lunsync {

namespace {

enum Level { kPortable, kSse, kAvx2, kAvx512 };

Level level_cap() {
  static constexpr const char* kNames[] = {"portable", "sse", "avx2", "avx512"};
  const char* wanted = std::getenv("LUNSYNC_CPU");
  for (int level = kPortable; wanted != nullptr && level <= kAvx512; ++level) {
    if (std::strcmp(wanted, kNames[level]) == 0) return static_cast<Level>(level);
  }
  return kAvx512;
}

#if defined(__x86_64__)

bool bit(uint32_t word, int number) { return (word >> number & 1) != 0; }

// Extended control register 0: which registers the operating system saves.
uint32_t saved_registers() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

CpuFeatures detect(Level cap) {
  CpuFeatures cpu;
  uint32_t a, b, c, d;
  if (cap == kPortable || __get_cpuid(1, &a, &b, &c, &d) == 0) return cpu;
  const uint32_t basic = c;
  uint32_t extended_b = 0, extended_c = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) != 0) {
    extended_b = b;
    extended_c = c;
  }
  cpu.sse = bit(basic, 9) && bit(basic, 19) && bit(basic, 20);
  cpu.pclmul = cpu.sse && bit(basic, 1);
  cpu.aes = cpu.sse && bit(basic, 25);
  cpu.sha = cpu.sse && bit(extended_b, 29);
  const uint32_t saved = bit(basic, 27) ? saved_registers() : 0;
  if (cap == kSse) return cpu;
  cpu.avx2 = cpu.sse && bit(basic, 28) && bit(extended_b, 5) && (saved & 0x06) == 0x06;
  if (cap == kAvx2) return cpu;
  cpu.avx512 = cpu.avx2 && bit(extended_b, 16) && bit(extended_b, 17) && bit(extended_b, 30) &&
               bit(extended_b, 31) && (saved & 0xe6) == 0xe6;
  cpu.vpclmul512 = cpu.avx512 && cpu.pclmul && bit(extended_c, 10);
  return cpu;
}

#else

CpuFeatures detect(Level) { return {}; }

#endif

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect(level_cap());
  return features;
}

}  // namespace lunsync
