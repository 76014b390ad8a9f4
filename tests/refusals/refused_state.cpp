#include "refused.h"

#include <poll.h>
#include <sys/wait.h>

namespace {

const std::vector<RefusedState>& all_states() {
  static const std::vector<RefusedState> all = [] {
    std::vector<RefusedState> states;
    for (const auto* some : {&refused_files(), &refused_channels(), &refused_memory(), &refused_processes()}) {
      states.insert(states.end(), some->begin(), some->end());
    }
    return states;
  }();
  return all;
}

/// Does the work, says so, and lives until `whole` ends.
[[noreturn]] void live_beside(pid_t whole, const std::function<void()>& work, int told) {
  const int pid_fd = must(static_cast<int>(syscall(SYS_pidfd_open, whole, 0)), "pidfd_open");
  if (work) work();
  const pid_t self = getpid();
  if (write(told, &self, sizeof self) != sizeof self) _exit(1);
  close(told);
  pollfd end = {pid_fd, POLLIN, 0};
  while (poll(&end, 1, -1) < 0) {
  }
  _exit(0);
}

pid_t beside(const std::function<void()>& work, bool orphan) {
  const pid_t self = getpid();
  int told[2];
  must(pipe2(told, O_CLOEXEC), "pipe");
  // Its end sends no signal: were this process traced by then, it would wait in that signal's delivery for its tracer.
  const pid_t first = must(orphan ? static_cast<pid_t>(syscall(SYS_clone, 0, 0, 0, 0, 0)) : fork(), "fork");
  if (first == 0) {
    close(told[0]);
    if (orphan && must(fork(), "fork") != 0) _exit(0);
    live_beside(self, work, told[1]);
  }
  close(told[1]);
  pid_t pid = 0;
  REQUIRE(read(told[0], &pid, sizeof pid) == sizeof pid, "a process beside this one has failed");
  close(told[0]);
  if (orphan) must(waitpid(first, nullptr, __WALL), "waitpid");
  return pid;
}

}  // namespace

pid_t outside(const std::function<void()>& work) { return beside(work, true); }
pid_t child(const std::function<void()>& work) { return beside(work, false); }

int main(int argc, char** argv) {
  if (argc == 2 && std::string(argv[1]) == "--list") {
    for (const RefusedState& state : all_states()) printf("%s %s\n", state.name, state.option);
    return 0;
  }
  begin(argc, argv);
  for (const RefusedState& state : all_states()) {
    if (argc < 3 || state.name != std::string(argv[2])) continue;
    std::string text;
    for (const std::string& words : state.make()) text += words + "\n";
    write_file("words", text.data(), text.size());
    ready();
    wait_for_go();
    return passed();
  }
  failed("there is no state of this name");
}
