// Children that have ended and that nobody has waited for: with a status, by a signal, one that says nothing of its
// end, one with a name and a user of its own. No SIGCHLD comes a second time.
#include <sched.h>
#include <sys/prctl.h>

#include "family.h"

namespace {

volatile sig_atomic_t told = 0;

void on_child(int) { told = told + 1; }

pid_t ends_with(int status) {
  return child([status] { _exit(status); });
}

pid_t ends_by(int signo) {
  return child([signo] {
    signal(signo, SIG_DFL);
    raise(signo);
  });
}

/// Its end sends another signal than SIGCHLD, or none.
pid_t silent(int exit_signal, int status) {
  const long pid = must(syscall(SYS_clone, exit_signal, 0, 0, 0, 0), "clone");
  if (pid == 0) _exit(status);
  return static_cast<pid_t>(pid);
}

pid_t named() {
  return child([] {
    prctl(PR_SET_NAME, "gone by now");
    if (geteuid() == 0) must(setresuid(65534, 65534, 65534), "setresuid");
    _exit(9);
  });
}

void require_named(pid_t pid) {
  const std::string name = read_text("/proc/" + std::to_string(pid) + "/comm");
  REQUIRE(name == "gone by now\n", "the name of one that has ended is %s", name.c_str());
  siginfo_t info = {};
  must(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), "waitid");
  const uid_t uid = geteuid() == 0 ? 65534 : geteuid();
  REQUIRE(info.si_uid == uid, "the user of one that has ended is %u, not %u", info.si_uid, uid);
}

void require_ended(pid_t pid, int status, int options = 0) {
  int got = 0;
  const pid_t r = waitpid(pid, &got, WNOHANG | options);
  REQUIRE(r == pid, "process %d is not there to be waited for (%d)", pid, r);
  REQUIRE(got == status, "process %d has ended with %#x, not %#x", pid, got, status);
}

void wait_zombie(pid_t pid) {
  siginfo_t info;
  must(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT | __WALL), "waitid");
}

void have_zombies(Roll* roll) {
  told = 0;
  struct sigaction action = {};
  action.sa_handler = on_child;
  action.sa_flags = SA_RESTART;
  sigaction(SIGCHLD, &action, nullptr);
  signal(SIGUSR2, on_child);
  const pid_t well = ends_with(0), seven = ends_with(7), killed = ends_by(SIGKILL), user = ends_by(SIGUSR1),
              realtime = ends_by(SIGRTMIN + 3), mute = silent(0, 3), other = silent(SIGUSR2, 4), with_name = named();
  for (const pid_t pid : {well, seven, killed, user, realtime, mute, other, with_name}) wait_zombie(pid);
  // The signals have come before any of these returned, maybe several as one.
  REQUIRE(told > 0, "no signal has told of a child");
  const int before = told;
  if (roll != nullptr)
    roll->here();
  else
    ready();
  wait_in_place("a parent of zombies");
  // The second process is a child of the first, whose end must not count.
  if (roll != nullptr)
    wait_until([] { return access(path("counted").c_str(), F_OK) == 0; }, "the first has counted");
  REQUIRE(told == before, "%d signals of children that had ended before", told - before);
  if (roll == nullptr) write_file("counted", "", 0);
  require_named(with_name);
  require_ended(with_name, 9 << 8);
  require_ended(well, 0);
  require_ended(seven, 7 << 8);
  require_ended(killed, SIGKILL);
  require_ended(user, SIGUSR1);
  require_ended(realtime, SIGRTMIN + 3);
  REQUIRE(waitpid(mute, nullptr, WNOHANG) == -1, "a child without an exit signal is an ordinary one");
  require_ended(mute, 3 << 8, __WALL);
  require_ended(other, 4 << 8, __WALL);
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  Roll roll;
  const pid_t second = child([&] { have_zombies(&roll); });
  roll.wait_for(1);
  have_zombies(nullptr);
  join(second);
  REQUIRE(waitpid(-1, nullptr, __WALL) == -1 && errno == ECHILD, "there is another child");
  return passed();
}
