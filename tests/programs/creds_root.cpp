// A root that has changed its effective and filesystem ids for a while, and each thread its own.
#include "selfcheck.h"

#include <grp.h>
#include <sys/fsuid.h>

#include <atomic>
#include <thread>

namespace {

std::string ids() {
  const std::string text = read_text("/proc/self/task/" + std::to_string(thread_id()) + "/status");
  std::string all;
  for (const char* name : {"Uid", "Gid", "Groups", "CapPrm", "CapEff"}) all += line_value(text, name) + "; ";
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  std::atomic<int> set_up{0};
  std::atomic<bool> verify{false};
  // The system calls themselves change one thread only; a file server works like that.
  std::thread other([&] {
    must(syscall(SYS_setresgid, -1, 3000, -1), "setresgid");
    must(syscall(SYS_setresuid, -1, 3001, -1), "setresuid");
    const std::string before = ids();
    ++set_up;
    while (!verify) sleep_ns(2'000'000);
    REQUIRE(ids() == before, "a thread's ids: were %s, are %s", before.c_str(), ids().c_str());
    must(syscall(SYS_setresuid, -1, 0, -1), "becoming root again in a thread");
  });
  wait_until([&] { return set_up == 1; }, "the thread has its ids");
  setfsuid(1500);
  setfsgid(1501);
  const std::string before = ids();
  ready();
  wait_for_go();
  REQUIRE(ids() == before, "the main thread's ids: were %s, are %s", before.c_str(), ids().c_str());
  verify = true;
  other.join();
  return passed();
}
