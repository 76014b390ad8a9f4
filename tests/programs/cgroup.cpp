// A control group of its own, below the one that it was started in, with a child in another below that.
#include "family.h"

#include <fstream>
#include <sstream>

namespace {

/// The mount point of the unified hierarchy; empty where there is none that we may change.
std::string unified() {
  std::istringstream mounts(read_text("/proc/self/mountinfo"));
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream words(line);
    std::string word, root, point;
    words >> word >> word >> word >> root >> point;
    if (line.find(" - cgroup2 ") != std::string::npos && root == "/" && access(point.c_str(), W_OK) == 0) return point;
  }
  return "";
}

std::string own_group() {
  std::istringstream groups(read_text("/proc/self/cgroup"));
  for (std::string line; std::getline(groups, line);) {
    if (line.rfind("0::", 0) == 0) return line.substr(3);
  }
  return "";
}

bool enter(const std::string& directory) {
  std::ofstream procs(directory + "/cgroup.procs");
  procs << getpid() << std::flush;
  return procs.good();
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const std::string point = unified(), before = own_group();
  const std::string upper = before + (before == "/" ? "" : "/") + "check-" + std::to_string(getpid()), lower = upper + "/below";
  if (point.empty() || mkdir((point + upper).c_str(), 0755) != 0 || !enter(point + upper)) {
    ready();
    wait_for_go();
    return passed();  // there is nothing to be looked at here
  }
  must(mkdir((point + lower).c_str(), 0755), "mkdir");
  Roll roll;
  const pid_t below = child([&] {
    REQUIRE(enter(point + lower), "the child cannot enter %s", lower.c_str());
    roll.here();
    wait_in_place("the child");
    REQUIRE(own_group() == lower, "the child is in %s, not in %s", own_group().c_str(), lower.c_str());
    REQUIRE(enter(point + before), "the child cannot leave");
  });
  roll.wait_for(1);
  ready();
  wait_in_place("the first");
  const std::string now = own_group();
  REQUIRE(enter(point + before), "the first cannot leave");
  join(below);
  must(rmdir((point + lower).c_str()), "rmdir of the lower group");
  must(rmdir((point + upper).c_str()), "rmdir of the upper group");
  REQUIRE(now == upper, "the first is in %s, not in %s", now.c_str(), upper.c_str());
  return passed();
}
