#include "engine/kinds/family.h"

#include <algorithm>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/base/record.h"
#include "engine/process/proc_status.h"

namespace ckpt {

namespace {

constexpr uint64_t kMaxPid = 1 << 22;  // PID_MAX_LIMIT
constexpr uint64_t kLastSignal = 64;

/// The status of one that a signal has ended: those whose default action is no end cannot have done that (signal(7)).
bool ends_a_process(int signo) {
  constexpr int kOthers[] = {0, SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH};
  return signo <= static_cast<int>(kLastSignal) && std::ranges::find(kOthers, signo) == std::end(kOthers);
}

bool is_wait_status(uint64_t status) {
  if (status > 0xffff) return false;
  const auto signo = static_cast<int>(status & 0x7f);
  return signo == 0 ? (status & 0xff) == 0 : (status >> 8) == 0 && ends_a_process(signo);
}

}  // namespace

Relations read_relations(int proc_dir, pid_t pid) {
  const std::string stat = read_file(proc_dir, "stat");
  // The command name may hold anything; what follows its ')' are fields 3 and up.
  const auto words = split_words(std::string_view(stat).substr(std::min(stat.rfind(')') + 1, stat.size())));
  const auto field = [&](size_t number) {
    std::string word = words.size() > number - 3 ? words[number - 3] : "";
    while (!word.empty() && word.back() == '\n') word.pop_back();
    const auto value = parse_i64(word);
    if (!value) fail(EIO, "/proc/{}/stat: field {} is no number", pid, number);
    return static_cast<int>(*value);
  };
  Relations relations;
  relations.pid = pid;
  relations.group = field(5);
  relations.session = field(6);
  relations.exit_signal = field(38);
  if (words[0] == "Z" || words[0] == "X") relations.exit_status = field(52);
  return relations;
}

void capture_family(ImageSink& image, const std::string& prefix, const Relations& relations) {
  Record out;
  if (relations.parent != 0) out.add("parent", relations.parent);
  if (relations.parent_thread != relations.parent) out.add("parent_thread", relations.parent_thread);
  out.add("group", relations.group);
  out.add("session", relations.session);
  out.add("exit_signal", relations.exit_signal);
  add_sharing(relations.shares, out);
  if (relations.exit_status) out.add_hex("exit_status", static_cast<uint64_t>(*relations.exit_status));
  image.put(prefix + "family", out.text());
}

Relations parse_family(const ImageSource& image, const std::string& prefix, pid_t pid) {
  Relations relations;
  relations.pid = pid;
  const std::string path = prefix + "family";
  const auto as_pid = [](uint64_t value) { return static_cast<pid_t>(value); };
  if (prefix.empty() && !image.has(path)) {
    const std::string status = image.read("status");
    relations.group = as_pid(parse_u64(status_field(status, "NSpgid")).value_or(0));
    relations.session = as_pid(parse_u64(status_field(status, "NSsid")).value_or(0));
    return relations;
  }
  const Record record = Record::parse(image.read(path), image.describe() + ": " + path);
  if (!prefix.empty()) relations.parent = as_pid(record.get_u64("parent", kMaxPid));
  relations.parent_thread = as_pid(record.get_u64_or("parent_thread", static_cast<uint64_t>(relations.parent)));
  relations.group = as_pid(record.get_u64("group", kMaxPid));
  relations.session = as_pid(record.get_u64("session", kMaxPid));
  relations.exit_signal = static_cast<int>(record.get_u64("exit_signal", kLastSignal));
  relations.shares = parse_sharing(record);
  if (record.has("exit_status")) {
    const uint64_t status = record.get_u64("exit_status");
    if (!is_wait_status(status)) fail(EINVAL, "{}: exit_status {:#x} is none", record.where(), status);
    relations.exit_status = static_cast<int>(status);
  }
  return relations;
}

}  // namespace ckpt
