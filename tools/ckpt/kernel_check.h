// What this kernel offers to a checkpoint and a resume.
#pragma once

#include <string>
#include <vector>

namespace ckpt::tool {

struct KernelFeature {
  std::string name;
  bool needed = false;  ///< without it nothing can be checkpointed, or resumed
  bool there = false;
  std::string detail;  ///< what it is for, and why it is missing
};

/// Tries each feature on this process only. Harmless; a few milliseconds.
std::vector<KernelFeature> probe_kernel();

}  // namespace ckpt::tool
