// What all processes of this host have open, as far as we may look.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string_view>

namespace ckpt {

/// Calls `visit` for every descriptor: its process, the name of its link in /proc/PID/fd, and the text of the link. Those of
/// processes for which `skip` is true are left out, and ours (shares_our_files()).
void for_each_open_link(const std::function<bool(pid_t)>& skip,
                        const std::function<void(pid_t, const char* name, std::string_view target)>& visit);

/// True of this process, and of its helpers that have all descriptors in common with it (kcmp(2)).
bool shares_our_files(pid_t pid);

}  // namespace ckpt
