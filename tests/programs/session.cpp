// Leader of its own session and process group, with its own pid.
#include "selfcheck.h"

#include <sys/wait.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  const pid_t pid = getpid();
  REQUIRE(getsid(0) == pid && getpgid(0) == pid, "setsid has no effect");
  ready();
  wait_for_go();
  REQUIRE(getpid() == pid && getsid(0) == pid && getpgid(0) == pid, "pid %d, session %d, group %d; all were %d",
          getpid(), getsid(0), getpgid(0), pid);
  // It has no children, and can have some.
  REQUIRE(waitpid(-1, nullptr, __WALL) == -1 && errno == ECHILD, "it has got a child");
  const pid_t child = must(fork(), "fork");
  if (child == 0) _exit(getppid() == pid ? 5 : 6);
  int status = 0;
  must(waitpid(child, &status, 0), "waitpid");
  REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 5, "a child ends with %x", status);
  return passed();
}
