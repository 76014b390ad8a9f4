// The code of a vDSO (vdso(7)): which functions it exports, and how those of another kernel's vDSO are made to lead to
// this kernel's.
//
// A program keeps the addresses of the functions that it has once looked up. So the old code stays where it was, and
// each exported function begins with a jump: to the function of the same name in this kernel's vDSO, or to the system
// call that does the same where this kernel's has none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace ckpt {

/// An exported function.
struct VdsoFunction {
  std::string name;              ///< without "__vdso_": "clock_gettime"
  uint64_t offset = 0;           ///< from the begin of the vDSO
  uint64_t size = 0;             ///< bytes
};

/// The functions of a vDSO image, one an address, ascending. Throws Error(EINVAL), beginning with `where`, for anything
/// that is no vDSO (hostile in an image).
std::vector<VdsoFunction> vdso_functions(std::span<const std::byte> code, const std::string& where);

/// Writes the jumps into `code`. `here`: the functions of this kernel's vDSO, `base`: its address. A function that
/// is neither there nor a system call returns -ENOSYS from now on. Throws Error: EINVAL as above, ENOEXEC for a function
/// that is too short to be replaced.
void redirect_vdso(std::span<std::byte> code, const std::string& where, const std::vector<VdsoFunction>& here,
                   uint64_t base);

}  // namespace ckpt
