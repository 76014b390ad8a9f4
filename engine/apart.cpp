#include "engine/apart.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/kinds/sharing.h"
#include "engine/process/procfs.h"

namespace ckpt {
namespace {

struct NamespaceKind {
  const char* file;
  const char* name;
  bool of_thread;                ///< one thread of several can be in another (namespaces(7))
};

constexpr std::array<NamespaceKind, 8> kKinds = {{{"user", "user", false},
                                                  {"pid", "pid", false},
                                                  {"mnt", "mount", true},
                                                  {"net", "network", true},
                                                  {"ipc", "IPC", true},
                                                  {"uts", "UTS", true},
                                                  {"cgroup", "cgroup", true},
                                                  {"time", "time", false}}};
/// Of those children that are still to be born: chosen by unshare(2), setns(2).
constexpr std::array<std::pair<const char*, const NamespaceKind*>, 2> kOfChildren = {
    {{"pid_for_children", &kKinds[1]}, {"time_for_children", &kKinds[7]}}};

std::string own_file(const char* file) { return fmt::format("/proc/self/ns/{}", file); }

/// Whether the thread ends, and has given up what it shared; or has gone.
bool ends(int proc_dir, pid_t tid) {
  constexpr uint64_t kExiting = 0x4;  // PF_EXITING, include/linux/sched.h
  try {
    return (task_flags(proc_dir, tid) & kExiting) != 0;
  } catch (const Error&) {
    return true;
  }
}

/// Of a thread; nothing where it cannot be told: it has ended, or (a pid namespace for children) nobody is in it yet, which
/// pidns_for_children_get() in kernel/pid_namespace.c tells by ENOENT.
std::optional<std::string> theirs(int proc_dir, pid_t tid, const char* file) {
  try {
    return read_link(proc_dir, fmt::format("task/{}/ns/{}", tid, file));
  } catch (const Error&) {
    return std::nullopt;
  }
}

/// By file.
using Links = std::map<std::string_view, std::string>;

/// Of the process as a whole, which is that of its main thread. Those that this kernel does not have are left out.
Links links_of(pid_t pid, int proc_dir) {
  Links links;
  for (const NamespaceKind& kind : kKinds) {
    if (::faccessat(AT_FDCWD, own_file(kind.file).c_str(), F_OK, AT_SYMLINK_NOFOLLOW) != 0) continue;
    try {
      links.emplace(kind.file, read_link(proc_dir, fmt::format("ns/{}", kind.file)));
    } catch (const Error& error) {
      fail(error.err(), "{}: {}", pid, error.sentence());
    }
  }
  return links;
}

void refuse_of_children(pid_t pid, int proc_dir, pid_t tid, const Links& links, Refusals& refusals) {
  for (const auto& [file, kind] : kOfChildren) {
    const auto own = links.find(kind->file);
    if (own == links.end() || theirs(proc_dir, tid, file) == own->second || ends(proc_dir, tid)) continue;
    refusals.add({EOPNOTSUPP, fmt::format("{}: children of thread {} would be born in another {} namespace, which is not "
                                          "supported yet", pid, tid, kind->name)});
  }
}

}  // namespace

void refuse_namespaces(pid_t pid, int proc_dir, Refusals& refusals) {
  const Links links = links_of(pid, proc_dir);
  for (const NamespaceKind& kind : kKinds) {
    const auto link = links.find(kind.file);
    if (link == links.end() || link->second == read_link(AT_FDCWD, own_file(kind.file))) continue;
    refusals.add({EOPNOTSUPP, fmt::format("{}: it is in another {} namespace, which is not supported yet", pid, kind.name)});
  }
  for (const pid_t tid : list_tasks(proc_dir)) {
    refuse_of_children(pid, proc_dir, tid, links, refusals);
    if (tid == pid) continue;
    for (const NamespaceKind& kind : kKinds) {
      if (!kind.of_thread || !links.contains(kind.file)) continue;
      const auto link = theirs(proc_dir, tid, kind.file);
      if (!link || link == links.at(kind.file)) continue;
      refusals.add({EOPNOTSUPP, fmt::format("{}: thread {} is in another {} namespace than the main thread, which is not "
                                            "supported yet", pid, tid, kind.name)});
    }
  }
}

void refuse_unshared_threads(pid_t pid, int proc_dir, Refusals& refusals) {
  for (const pid_t tid : list_tasks(proc_dir)) {
    if (tid == pid) continue;
    for (const SharingKind& kind : sharing_kinds()) {
      if (!differs(pid, tid, kind) || ends(proc_dir, tid)) continue;
      refusals.add({EOPNOTSUPP, fmt::format("{}: thread {} has a {} of its own (unshare), which is not supported yet", pid, tid,
                                            kind.what)});
    }
  }
}

}  // namespace ckpt
