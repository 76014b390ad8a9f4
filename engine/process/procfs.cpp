#include "engine/process/procfs.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>

#include <algorithm>
#include <charconv>
#include <memory>

#include "engine/base/error.h"
#include "engine/base/record.h"
#include "engine/process/proc_status.h"

namespace ckpt {
namespace {

template <typename T>
T number(std::string_view text, int base = 10) {
  T value{};
  std::from_chars(text.data(), text.data() + text.size(), value, base);
  return value;
}

/// The fields of the text of a stat file from `state` on, which is the third: proc_pid_stat(5) counts from one.
std::vector<std::string> stat_fields(std::string_view stat, size_t at_least) {
  // comm may hold spaces and parentheses: fields are counted from the last ')'.
  const size_t paren = stat.rfind(')');
  auto words = split_words(paren == std::string::npos ? "" : stat.substr(paren + 1));
  if (words.size() < at_least) fail(EINVAL, "/proc/PID/stat: too few fields");
  return words;
}

std::string_view next_line(std::string_view& text) {
  const size_t end = text.find('\n');
  const std::string_view line = text.substr(0, end);
  text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  return line;
}

}  // namespace

UniqueFd open_proc(pid_t pid) {
  if (pid <= 0) fail(ESRCH, "{}: no such process", pid);
  UniqueFd fd(::open(fmt::format("/proc/{}", pid).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) {
    if (errno == ENOENT) fail(ESRCH, "{}: no such process", pid);
    fail_errno("/proc/{}", pid);
  }
  return fd;
}

ProcStatus parse_status(std::string_view text, pid_t pid) {
  const auto field = [&](std::string_view name) {
    if (text.find(fmt::format("{}:", name)) == std::string_view::npos) {
      fail(EINVAL, "/proc/{}/status: no line {}", pid, name);
    }
    return status_field(text, name);
  };
  const auto id = [&](std::string_view name) { return number<pid_t>(field(name)); };
  ProcStatus s;
  s.name = unescape(field("Name")).value_or(field("Name"));
  s.state = field("State").empty() ? '?' : field("State")[0];
  s.tgid = id("Tgid");
  s.pid = id("Pid");
  s.ppid = id("PPid");
  s.tracer = id("TracerPid");
  const auto uids = split_words(field("Uid"));
  const auto gids = split_words(field("Gid"));
  for (size_t i = 0; i < 4 && i < uids.size(); ++i) s.uid[i] = number<uid_t>(uids[i]);
  for (size_t i = 0; i < 4 && i < gids.size(); ++i) s.gid[i] = number<gid_t>(gids[i]);
  for (const auto& group : split_words(field("Groups"))) s.groups.push_back(number<gid_t>(group));
  s.cap_permitted = number<uint64_t>(field("CapPrm"), 16);
  s.cap_effective = number<uint64_t>(field("CapEff"), 16);
  s.cap_bounding = number<uint64_t>(field("CapBnd"), 16);
  s.no_new_privs = status_field(text, "NoNewPrivs") == "1";
  s.threads = number<int>(field("Threads"));
  s.has_mm = !status_field(text, "VmSize").empty();
  // "Kthread" came with Linux 6.10; before, a kernel thread is what has no memory and yet is no zombie.
  if (const auto kthread = status_field(text, "Kthread"); !kthread.empty()) {
    s.kernel_thread = kthread == "1";
  } else {
    s.kernel_thread = !s.has_mm && s.state != 'Z' && s.state != 'X';
  }
  s.seccomp = number<int>(status_field(text, "Seccomp"));
  // "untag_mask" came with Linux 6.4 (Documentation/arch/x86 has the feature as LAM).
  const auto untag = parse_u64(status_field(text, "untag_mask"));
  s.address_masking = untag && *untag != UINT64_MAX;
  const auto features = split_words(status_field(text, "x86_Thread_features"));
  s.shadow_stack = std::find(features.begin(), features.end(), "shstk") != features.end();
  return s;
}

ProcStatus read_status(pid_t pid) {
  const UniqueFd dir = open_proc(pid);
  try {
    return parse_status(read_file(dir.get(), "status"), pid);
  } catch (const Error& e) {
    if (e.err() == ENOENT || e.err() == ESRCH) fail(ESRCH, "{}: no such process", pid);
    throw;
  }
}

std::vector<pid_t> list_tasks(int proc_dir) {
  std::vector<pid_t> tids;
  const int fd = ::openat(proc_dir, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return tids;
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::fdopendir(fd), ::closedir);
  while (const dirent* entry = ::readdir(dir.get())) {
    const pid_t tid = number<pid_t>(entry->d_name);
    if (tid > 0) tids.push_back(tid);
  }
  // The kernel lists some twice where the one that it listed last has died (first_tid() in fs/proc/base.c).
  std::sort(tids.begin(), tids.end());
  tids.erase(std::unique(tids.begin(), tids.end()), tids.end());
  return tids;
}

std::vector<ChildOf> list_children(int proc_dir) {
  std::vector<ChildOf> children;
  for (const pid_t tid : list_tasks(proc_dir)) {
    try {
      for (const auto& word : split_words(read_file(proc_dir, fmt::format("task/{}/children", tid)))) {
        if (const auto pid = number<pid_t>(word); pid > 0) children.push_back({tid, pid});
      }
    } catch (const Error& e) {
      if (e.err() != ENOENT && e.err() != ESRCH) throw;  // a thread that has just ended
    }
  }
  return children;
}

uint64_t task_flags(int proc_dir, pid_t tid) {
  return number<uint64_t>(stat_fields(read_file(proc_dir, fmt::format("task/{}/stat", tid)), 7)[6]);
}

uint64_t start_ticks(pid_t pid) {
  return number<uint64_t>(stat_fields(read_file(fmt::format("/proc/{}/stat", pid)), 20)[19]);
}

std::string read_label(const std::string& task_dir) {
  std::string label;
  try {
    label = read_file(task_dir + "/attr/current");
  } catch (const Error&) {
    return "";  // no module that labels threads
  }
  while (!label.empty() && (label.back() == '\n' || label.back() == '\0')) label.pop_back();
  return label == "unconfined" ? "" : label;
}

bool pid_in_use(pid_t pid) { return ::kill(pid, 0) == 0 || errno != ESRCH; }

bool is_ending(pid_t pid) {
  constexpr uint64_t kExiting = 0x4;                        // PF_EXITING, include/linux/sched.h
  constexpr uint64_t kKilled = uint64_t{1} << (SIGKILL - 1);
  try {
    const auto words = stat_fields(read_file(fmt::format("/proc/{}/stat", pid)), 29);
    return words[0] == "Z" || words[0] == "X" || (number<uint64_t>(words[6]) & kExiting) != 0 ||
           (number<uint64_t>(words[28]) & kKilled) != 0;
  } catch (const Error&) {
    return false;                                           // it is gone
  }
}

std::vector<Mapping> parse_mappings(std::string_view text) {
  std::vector<Mapping> mappings;
  while (!text.empty()) {
    std::string_view line = next_line(text);
    const auto word = [&line] {
      const size_t begin = std::min(line.find_first_not_of(' '), line.size());
      const size_t end = std::min(line.find(' ', begin), line.size());
      const std::string_view w = line.substr(begin, end - begin);
      line.remove_prefix(end);
      return w;
    };
    Mapping m;
    const std::string_view range = word();
    const size_t dash = range.find('-');
    if (dash == std::string_view::npos) continue;
    m.start = number<uint64_t>(range.substr(0, dash), 16);
    m.end = number<uint64_t>(range.substr(dash + 1), 16);
    const std::string_view perms = word();
    if (perms.size() < 4) continue;
    m.readable = perms[0] == 'r';
    m.writable = perms[1] == 'w';
    m.executable = perms[2] == 'x';
    m.shared = perms[3] == 's';
    m.offset = number<uint64_t>(word(), 16);
    const std::string_view device = word();
    const size_t colon = std::min(device.find(':'), device.size() - 1);
    m.device =
        number<uint64_t>(device.substr(0, colon), 16) << 32 | number<uint64_t>(device.substr(colon + 1), 16);
    m.inode = number<uint64_t>(word());
    m.path = word();
    mappings.push_back(std::move(m));
  }
  return mappings;
}

const Mapping* mapping_at(const std::vector<Mapping>& mappings, uint64_t addr) {
  const auto it = std::upper_bound(mappings.begin(), mappings.end(), addr,
                                   [](uint64_t a, const Mapping& m) { return a < m.end; });
  return it != mappings.end() && it->start <= addr ? &*it : nullptr;
}

std::map<int, std::string> read_mount_types(int proc_dir) {
  std::map<int, std::string> types;
  const std::string text = read_file(proc_dir, "mountinfo");
  std::string_view rest = text;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    const size_t dash = line.find(" - ");
    if (dash == std::string_view::npos) continue;
    int id = 0;
    std::from_chars(line.data(), line.data() + line.size(), id);
    const std::string_view after = line.substr(dash + 3);
    types.emplace(id, after.substr(0, after.find(' ')));
  }
  return types;
}

}  // namespace ckpt
