// What a thread may ask of its CPU: the time stamp counter, CPUID, speculation, being an I/O flusher. Each thread has its
// own; where this machine does not offer one it stays as it is.
#include "selfcheck.h"

#include <setjmp.h>
#include <sys/prctl.h>

#include <atomic>
#include <thread>

namespace {

constexpr long kGetCpuid = 0x1011, kSetCpuid = 0x1012;   // ARCH_GET_CPUID, ARCH_SET_CPUID

std::string states() {
  int tsc = 0;
  must(prctl(PR_GET_TSC, &tsc), "PR_GET_TSC");
  std::string text = "tsc " + std::to_string(tsc) + ", cpuid " + std::to_string(syscall(SYS_arch_prctl, kGetCpuid, 0)) +
                     ", I/O flusher " + std::to_string(prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0)) + ", speculation";
  for (int which = 0; which < 3; ++which) text += " " + std::to_string(prctl(PR_GET_SPECULATION_CTRL, which, 0, 0, 0));
  return text;
}

sigjmp_buf* back = nullptr;
void jump(int) { siglongjmp(*back, 1); }

/// Whether RDTSC is a SIGSEGV for this thread.
bool counter_denied() {
  sigjmp_buf here;
  back = &here;
  struct sigaction action = {}, before;
  action.sa_handler = jump;
  must(sigaction(SIGSEGV, &action, &before), "sigaction");
  volatile bool denied = true;
  if (sigsetjmp(here, 1) == 0) {
    asm volatile("rdtsc" ::: "rax", "rdx");
    denied = false;
  }
  must(sigaction(SIGSEGV, &before, nullptr), "sigaction");
  return denied;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  std::string other_before, other_after;
  std::atomic<bool> set{false}, go{false};
  std::thread other([&] {
    must(prctl(PR_SET_TSC, PR_TSC_SIGSEGV), "PR_SET_TSC");
    prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);      // wants CAP_SYS_RESOURCE
    other_before = states();
    set = true;
    // Without the clock, which would read the counter.
    while (!go) syscall(SYS_sched_yield);
    other_after = states();
    if (!counter_denied()) other_after += ", and yet RDTSC works";
    must(prctl(PR_SET_TSC, PR_TSC_ENABLE), "PR_SET_TSC");
  });
  wait_until([&] { return set.load(); }, "the other thread is ready");
  syscall(SYS_arch_prctl, kSetCpuid, 0);       // some CPUs only
  for (int which = 0; which < 3; ++which)
    prctl(PR_SET_SPECULATION_CTRL, which, which == 2 ? PR_SPEC_ENABLE : PR_SPEC_DISABLE, 0, 0);
  const std::string before = states();
  ready();
  wait_for_go();
  go = true;
  other.join();
  REQUIRE(states() == before, "were: %s; are: %s", before.c_str(), states().c_str());
  REQUIRE(other_before == other_after, "of the other thread, were: %s; are: %s", other_before.c_str(), other_after.c_str());
  return passed();
}
