// Process groups and sessions: groups with and without their leader, a leader that has gone to another group, sessions
// below the first, a child that was made before its parent led a session of its own.
#include "family.h"

namespace {

pid_t member(Roll& roll, const char* name, const std::function<void()>& set_up) {
  return child([&roll, name, set_up] {
    set_up();
    roll.here();
    wait_in_place(name);
  });
}

void own_group() { must(setpgid(0, 0), "setpgid"); }
std::function<void()> join_group(pid_t group) {
  return [group] { must(setpgid(0, group), "setpgid to join"); };
}

void wait_group(pid_t pid, pid_t group) {
  wait_until([=] { return getpgid(pid) == group; }, "a process is in its group");
}

/// A session of its own, with a group in it; its first child stays in the session it was born in.
pid_t session(Roll& roll) {
  return child([&roll] {
    const pid_t before = member(roll, "one of the old session", [] {});
    must(setsid(), "setsid");
    const pid_t leader = member(roll, "a group in a session", own_group);
    wait_group(leader, leader);
    const pid_t second = member(roll, "second in a group in a session", join_group(leader));
    const pid_t beside = member(roll, "one of the session's group", [] {});
    roll.here();
    wait_in_place("the leader of a session");
    REQUIRE(getsid(before) != getsid(0) && getsid(second) == getsid(0), "the sessions are mixed up");
    for (const pid_t pid : {before, leader, second, beside}) join(pid);
  });
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  Roll roll;
  const pid_t leader = member(roll, "the leader of a group", own_group);
  wait_group(leader, leader);
  const pid_t second = member(roll, "second in the group", join_group(leader));

  // A group that its leader has left by ending, and one that it has left for another.
  const pid_t gone = child([] {
    own_group();
    for (;;) pause();
  });
  wait_group(gone, gone);
  const pid_t orphans[] = {member(roll, "one of a group without leader", join_group(gone)),
                           member(roll, "another of a group without leader", join_group(gone))};
  for (const pid_t pid : orphans) wait_group(pid, gone);
  kill(gone, SIGKILL);
  waitpid(gone, nullptr, 0);
  const pid_t wanderer = child([&] {
    own_group();
    wait_until([] { return access(path("follow").c_str(), F_OK) == 0; }, "somebody is in the group");
    must(setpgid(0, leader), "setpgid to another group");
    roll.here();
    wait_in_place("the leader who went");
  });
  wait_group(wanderer, wanderer);
  const pid_t follower = member(roll, "the follower who stayed", join_group(wanderer));
  wait_group(follower, wanderer);
  write_file("follow", "", 0);
  wait_group(wanderer, leader);

  const pid_t other = session(roll);
  roll.wait_for(11);
  ready();
  wait_in_place("the first");
  for (const pid_t pid : {leader, second, orphans[0], orphans[1], wanderer, follower, other}) join(pid);
  return passed();
}
