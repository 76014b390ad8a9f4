// Scheduling: nice, policy and priority, affinity, I/O priority, timer slack, memory policy; each thread its own.
#include "selfcheck.h"

#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <atomic>
#include <thread>
#include <vector>

namespace {

std::atomic<int> set_up{0};
std::atomic<bool> verify{false};

/// Mode and nodes; "none" of a kernel without NUMA.
std::string memory_policy() {
  int mode = 0;
  unsigned long nodes[16] = {};
  if (syscall(SYS_get_mempolicy, &mode, nodes, 8 * sizeof nodes, 0, 0) != 0) return "none";
  return std::to_string(mode) + " of " + std::to_string(nodes[0]);
}

std::string settings() {
  sched_param param = {};
  must(sched_getparam(0, &param), "sched_getparam");
  cpu_set_t cpus;
  must(sched_getaffinity(0, sizeof cpus, &cpus), "sched_getaffinity");
  std::string text = "policy " + std::to_string(sched_getscheduler(0)) + ", priority " +
                     std::to_string(param.sched_priority) + ", nice " + std::to_string(getpriority(PRIO_PROCESS, 0)) +
                     ", ioprio " + std::to_string(syscall(SYS_ioprio_get, 1, 0)) + ", slack " +
                     std::to_string(prctl(PR_GET_TIMERSLACK)) + ", memory policy " + memory_policy() + ", cpus";
  for (int i = 0; i < CPU_SETSIZE; ++i)
    if (CPU_ISSET(i, &cpus)) text += " " + std::to_string(i);
  return text;
}

void set(int policy, int priority, int nice, int ioprio) {
  sched_param param = {};
  param.sched_priority = priority;
  must(sched_setscheduler(0, policy, &param), "sched_setscheduler");
  must(setpriority(PRIO_PROCESS, 0, nice), "setpriority");
  must(syscall(SYS_ioprio_set, 1, 0, ioprio), "ioprio_set");
}

void hold(int who) {
  switch (who) {
    case 0: set(SCHED_BATCH, 0, 3, 2 << 13 | 6); break;
    case 1: set(SCHED_IDLE, 0, 5, 3 << 13); break;
    case 2: set(SCHED_FIFO | SCHED_RESET_ON_FORK, 7, 0, 1 << 13 | 2); break;
    case 3: set(SCHED_RR, 3, -4, 2 << 13 | 1); break;
  }
  if (who == 0) must(prctl(PR_SET_TIMERSLACK, 123456), "PR_SET_TIMERSLACK");
  const unsigned long node = 1;
  if (who == 2 && memory_policy() != "none") must(syscall(SYS_set_mempolicy, MPOL_BIND, &node, 64), "set_mempolicy");
  if (who == 1) {
    cpu_set_t all, one;
    must(sched_getaffinity(0, sizeof all, &all), "sched_getaffinity");
    int last = CPU_SETSIZE - 1;
    while (!CPU_ISSET(last, &all)) --last;
    CPU_ZERO(&one);
    CPU_SET(last, &one);
    must(sched_setaffinity(0, sizeof one, &one), "sched_setaffinity");
  }
  const std::string before = settings();
  ++set_up;
  while (!verify) sleep_ns(2'000'000);
  REQUIRE(settings() == before, "thread %d: was %s; is %s", who, before.c_str(), settings().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back(hold, i);
  wait_until([] { return set_up == 4; }, "all settings are made");
  must(setpriority(PRIO_PROCESS, 0, 7), "setpriority");
  const std::string before = settings();
  ready();
  wait_for_go();
  REQUIRE(settings() == before, "main thread: was %s; is %s", before.c_str(), settings().c_str());
  verify = true;
  for (std::thread& thread : threads) thread.join();
  return passed();
}
