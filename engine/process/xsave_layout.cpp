#include "engine/process/xsave_layout.h"

#include <cpuid.h>

namespace ckpt {

const XsaveLayout& xsave_layout() {
  static const XsaveLayout layout = [] {
    XsaveLayout found;
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & bit_OSXSAVE) == 0) return found;
    asm("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    found.features = uint64_t{edx} << 32 | eax;
    for (unsigned bit = 2; bit < found.components.size(); ++bit) {
      if ((found.features >> bit & 1) == 0) continue;
      unsigned size = 0, offset = 0;
      __cpuid_count(0xd, bit, size, offset, ecx, edx);
      found.components[bit] = {offset, size};
    }
    return found;
  }();
  return layout;
}

}  // namespace ckpt
