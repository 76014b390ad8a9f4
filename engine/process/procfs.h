// Typed readers of /proc/PID. Everything here is a snapshot of a moment: the process may be gone or changed
// by the time the caller looks at it.
//
//   const UniqueFd dir = open_proc(1234);                       // ESRCH "1234: no such process"
//   const ProcStatus status = parse_status(read_file(dir.get(), "status"), 1234);
//   for (pid_t tid : list_tasks(dir.get(), 1234)) ...
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/fd.h"

namespace ckpt {

/// The fields of /proc/PID/status that we use (Documentation/filesystems/proc.rst).
struct ProcStatus {
  std::string name;  ///< comm, unescaped
  char state = '?';  ///< R S D T t Z X I
  pid_t tgid = 0, pid = 0, ppid = 0;
  pid_t tracer = 0;            ///< 0 for none
  std::array<uid_t, 4> uid{};  ///< real, effective, saved, filesystem
  std::array<gid_t, 4> gid{};
  std::vector<gid_t> groups;
  uint64_t cap_permitted = 0, cap_effective = 0, cap_bounding = 0;
  bool no_new_privs = false;
  int threads = 0;
  bool kernel_thread = false;  ///< no address space
  bool has_mm = false;         ///< false for a kernel thread and for a zombie
  int seccomp = 0;             ///< 0 none, 1 strict, 2 filter
  bool address_masking = false;  ///< addresses with tag bits (LAM): untag_mask is not all ones
  bool shadow_stack = false;   ///< x86_Thread_features has shstk
};

/// Opens the directory /proc/PID. Throws Error(ESRCH).
UniqueFd open_proc(pid_t pid);

/// Throws Error(EINVAL) where a line that must be there is missing.
ProcStatus parse_status(std::string_view text, pid_t pid);
/// Of /proc/PID (also of a thread's id). Throws Error(ESRCH).
ProcStatus read_status(pid_t pid);

/// What a security module confines a thread by, of the attr/current in its directory /proc/PID/task/TID; empty for
/// nothing, which AppArmor calls "unconfined".
std::string read_label(const std::string& task_dir);

/// Whether there is a process or a thread of that number, a zombie too, whosever it is.
bool pid_in_use(pid_t pid);

/// Whether the process is a zombie, is exiting, or has a SIGKILL pending: its pid will be free soon, if its parent waits.
bool is_ending(pid_t pid);

/// Field 9 of /proc/PID/task/TID/stat, the kernel's flags of a thread (PF_..., include/linux/sched.h).
uint64_t task_flags(int proc_dir, pid_t tid);

/// Field 22 of /proc/PID/stat: when the process began, in clock ticks since boot. Throws Error(ESRCH, ENOENT).
uint64_t start_ticks(pid_t pid);

/// Thread ids of /proc/PID/task, ascending. Empty where the process has gone.
std::vector<pid_t> list_tasks(int proc_dir);

/// A child process and the thread that it is the child of.
struct ChildOf {
  pid_t thread = 0;
  pid_t pid = 0;
};
/// Child processes of all threads of the process, zombies included, in the order in which they were made for each thread.
/// Complete only where nobody is born or dies meanwhile (proc(5), /proc/pid/task/tid/children).
std::vector<ChildOf> list_children(int proc_dir);

/// One line of /proc/PID/maps, as far as the tracing code needs it (parse_maps in memory/ knows all of it).
struct Mapping {
  uint64_t start = 0, end = 0;
  bool readable = false, writable = false, executable = false, shared = false;
  uint64_t offset = 0;
  uint64_t device = 0, inode = 0;
  std::string path;
};
std::vector<Mapping> parse_mappings(std::string_view maps_text);
const Mapping* mapping_at(const std::vector<Mapping>& mappings, uint64_t addr);

/// Filesystem types by mount id, from /proc/PID/mountinfo: the id is the first word, the type follows " - ".
std::map<int, std::string> read_mount_types(int proc_dir);

}  // namespace ckpt
