// What this kernel, and our rights on it, offer: probed once by trying, kept in one table that a user can
// print (ckpt check --kernel).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ckpt {

struct KernelFeature {
  std::string name;
  bool available = false;
  std::string since;     ///< the Linux version that brought it
  std::string used_for;
  std::string instead;   ///< what is done, or not to be had, without it
};

/// The table. The first call probes (about a millisecond; it makes a short-lived child process). Thread-safe.
const std::vector<KernelFeature>& kernel_features();

/// Whether a feature of the table is available. The name must be one of the table (else Error EINVAL).
bool kernel_has(std::string_view name);

/// The first address that no process may have (TASK_SIZE_MAX in arch/x86/include/asm/page_64.h): a page below 2^47, or
/// 2^56 where the kernel uses five levels of page tables. Probed once. Thread-safe.
uint64_t user_space_end();

}  // namespace ckpt
