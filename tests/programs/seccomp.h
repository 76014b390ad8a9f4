// Small seccomp filters.
#pragma once

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

#include <vector>

#include "selfcheck.h"

namespace selfcheck {

/// Of the given calls `action`, all others are allowed.
inline std::vector<sock_filter> program(const std::vector<long>& calls, uint32_t action) {
  std::vector<sock_filter> code = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (const long nr : calls) {
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(nr), 0, 1));
    code.push_back(BPF_STMT(BPF_RET | BPF_K, action));
  }
  code.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  return code;
}

inline long install(std::vector<sock_filter> code, unsigned flags) {
  const sock_fprog fprog = {static_cast<unsigned short>(code.size()), code.data()};
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &fprog);
}

inline void require_forbidden(long nr, int error, const char* what) {
  REQUIRE(syscall(nr, 0, 0, 0) == -1 && errno == error, "%s is not answered %d but %d", what, error, errno);
}

}  // namespace selfcheck
