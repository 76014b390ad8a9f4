// Where the components of the XSAVE area stand on this CPU (Intel's manual, volume 1, chapter 13). The instruction CPUID
// leaves a virtual machine, which takes as long as many system calls: it is asked once.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace ckpt {

struct XsaveComponent {
  uint64_t offset = 0, size = 0;  ///< bytes, in the standard format
};

struct XsaveLayout {
  uint64_t features = 0;  ///< XCR0: what this kernel has enabled; 0 without XSAVE
  std::array<XsaveComponent, 63> components{};
};

/// Any thread may call it; the first call takes up to a millisecond, and belongs before a stop.
const XsaveLayout& xsave_layout();

}  // namespace ckpt
