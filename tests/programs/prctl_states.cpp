// What prctl sets: dumpable, no_new_privs, child subreaper, keep capabilities, parent death signal, THP off,
// memory-failure policy; and oom_score_adj, the core dump filter and the nice value of its session from /proc.
#include "selfcheck.h"

#include <sys/prctl.h>

namespace {

/// The session is a group to the scheduler, whose number does not matter: "/autogroup-25 nice 7".
std::string autogroup_nice() {
  if (access("/proc/self/autogroup", F_OK) != 0) return "";
  const std::string text = read_text("/proc/self/autogroup");
  const size_t at = text.find("nice");
  return at == std::string::npos ? "" : text.substr(at);
}

std::string states() {
  int subreaper = 0, death = 0;
  must(prctl(PR_GET_CHILD_SUBREAPER, &subreaper), "PR_GET_CHILD_SUBREAPER");
  must(prctl(PR_GET_PDEATHSIG, &death), "PR_GET_PDEATHSIG");
  return "dumpable " + std::to_string(prctl(PR_GET_DUMPABLE)) + ", no_new_privs " +
         std::to_string(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)) + ", subreaper " + std::to_string(subreaper) +
         ", death signal " + std::to_string(death) + ", keepcaps " + std::to_string(prctl(PR_GET_KEEPCAPS)) +
         ", no huge pages " + std::to_string(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0)) + ", memory failure " +
         std::to_string(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0)) + ", oom " + read_text("/proc/self/oom_score_adj") +
         "core filter " + read_text("/proc/self/coredump_filter") + autogroup_nice();
}

void put(const char* file, const char* text) {
  const int fd = must(open(file, O_WRONLY), file);
  must(write(fd, text, strlen(text)), file);
  close(fd);
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  put("/proc/self/oom_score_adj", "321");
  put("/proc/self/coredump_filter", "0x3b");
  if (!autogroup_nice().empty()) put("/proc/self/autogroup", "7");
  must(prctl(PR_SET_CHILD_SUBREAPER, 1), "PR_SET_CHILD_SUBREAPER");
  must(prctl(PR_SET_KEEPCAPS, 1), "PR_SET_KEEPCAPS");
  must(prctl(PR_SET_PDEATHSIG, SIGURG), "PR_SET_PDEATHSIG");
  must(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "PR_SET_THP_DISABLE");
  prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0);  // not every kernel is built with it
  must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS");
  must(prctl(PR_SET_DUMPABLE, 0), "PR_SET_DUMPABLE");
  const std::string before = states();
  ready();
  wait_for_go();
  REQUIRE(states() == before, "were: %s; are: %s", before.c_str(), states().c_str());
  return passed();
}
