// Credentials of somebody who is not root any more: real, effective and saved ids, groups, no capabilities left.
#include "selfcheck.h"

#include <grp.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  const gid_t groups[] = {5, 2000, 65534};
  must(setgroups(3, groups), "setgroups");
  must(setresgid(1001, 1002, 1003), "setresgid");
  must(setresuid(1001, 1002, 1003), "setresuid");
  const std::string before = read_text("/proc/self/status");
  ready();
  wait_for_go();
  const std::string now = read_text("/proc/self/status");
  for (const char* name : {"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"})
    REQUIRE(line_value(now, name) == line_value(before, name), "%s was %s, is %s", name,
            line_value(before, name).c_str(), line_value(now, name).c_str());
  REQUIRE(line_value(now, "Uid") == "1001\t1002\t1003\t1002", "Uid: %s", line_value(now, "Uid").c_str());
  REQUIRE(access("/root", X_OK) != 0, "somebody's right has grown");
  must(setresuid(-1, 1003, -1), "the saved id cannot be taken");
  REQUIRE(setresuid(0, 0, 0) == -1 && errno == EPERM, "it can become root again");
  return passed();
}
