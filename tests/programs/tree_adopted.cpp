// Children that a subreaper has adopted: their own parent has ended, in its session or in one of its own, whose leader has
// ended, is a zombie, or goes on.
#include <sys/prctl.h>

#include "family.h"

namespace {

struct Adopted {
  pid_t child, between;
};

/// A child of a child that ends, and is a zombie then. `prepare` runs in it before.
Adopted adopt(Roll& roll, const char* name, const std::function<void()>& prepare) {
  const pid_t adopter = getpid();
  int told[2];
  must(pipe2(told, O_CLOEXEC), "pipe2");
  Adopted made{};
  made.between = child([&] {
    prepare();
    const pid_t grandchild = child([&] {
      close(told[0]);
      close(told[1]);
      wait_until([=] { return getppid() == adopter; }, "it has been adopted");
      roll.here();
      wait_in_place(name);
    });
    REQUIRE(write(told[1], &grandchild, sizeof grandchild) == sizeof grandchild, "write");
  });
  REQUIRE(read(told[0], &made.child, sizeof made.child) == sizeof made.child, "read");
  close(told[0]);
  close(told[1]);
  siginfo_t info;
  must(waitid(P_PID, static_cast<id_t>(made.between), &info, WEXITED | WNOWAIT), "waitid");
  return made;
}

void lead_session() { must(setsid(), "setsid"); }

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  Roll roll;
  must(prctl(PR_SET_CHILD_SUBREAPER, 1), "PR_SET_CHILD_SUBREAPER");
  const Adopted plain = adopt(roll, "one adopted in the session", [] {});
  join(plain.between);
  const Adopted lost = adopt(roll, "one of a session whose leader is gone", lead_session);
  join(lost.between);
  const Adopted left = adopt(roll, "one of a session whose leader is a zombie", lead_session);
  REQUIRE(getsid(lost.child) == lost.between && getsid(left.child) == left.between, "the sessions are not as planned");

  // A leader who goes on, whose child's child is the first one's now.
  const pid_t adopter = getpid();
  int told[2];
  must(pipe2(told, O_CLOEXEC), "pipe2");
  const pid_t leader = child([&] {
    lead_session();
    const pid_t between = child([&] {
      const pid_t grandchild = child([&] {
        close(told[0]);
        close(told[1]);
        wait_until([=] { return getppid() == adopter; }, "it has been adopted");
        roll.here();
        wait_in_place("one of a session whose leader goes on");
      });
      REQUIRE(write(told[1], &grandchild, sizeof grandchild) == sizeof grandchild, "write");
    });
    close(told[0]);
    close(told[1]);
    join(between);
    roll.here();
    wait_in_place("the leader who goes on");
  });
  pid_t grandchild = 0;
  REQUIRE(read(told[0], &grandchild, sizeof grandchild) == sizeof grandchild, "read");
  close(told[0]);
  close(told[1]);

  roll.wait_for(5);
  REQUIRE(getsid(grandchild) == leader, "the session is not as planned");
  ready();
  wait_in_place("the first");
  int subreaper = 0;
  must(prctl(PR_GET_CHILD_SUBREAPER, &subreaper), "PR_GET_CHILD_SUBREAPER");
  REQUIRE(subreaper == 1, "the subreaper is none");
  for (const pid_t pid : {plain.child, lost.child, left.between, left.child, leader, grandchild}) join(pid);
  REQUIRE(waitpid(-1, nullptr, __WALL) == -1 && errno == ECHILD, "there is another child");
  return passed();
}
