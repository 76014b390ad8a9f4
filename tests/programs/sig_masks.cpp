// Blocked signals and alternate stacks, different in each thread.
#include "selfcheck.h"

#include <atomic>
#include <thread>
#include <vector>

namespace {

std::atomic<int> waiting{0};
std::atomic<bool> verify{false};

uint64_t kernel_mask() {
  uint64_t mask = 0;
  must(syscall(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, &mask, 8), "rt_sigprocmask");
  return mask;
}

void hold(int who) {
  std::vector<char> memory(32768 + 4096 * who);
  const stack_t stack = {memory.data(), 0, memory.size()};
  const stack_t none = {nullptr, SS_DISABLE, 0};
  must(sigaltstack(who % 2 ? &stack : &none, nullptr), "sigaltstack");
  uint64_t mask = pattern(7, who) & ~(1ULL << (SIGSEGV - 1)) & ~(1ULL << (SIGKILL - 1)) & ~(1ULL << (SIGSTOP - 1));
  must(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, nullptr, 8), "rt_sigprocmask");
  mask = kernel_mask();
  ++waiting;
  while (!verify) sleep_ns(2'000'000);
  REQUIRE(kernel_mask() == mask, "thread %d: blocked %llx, was %llx", who,
          static_cast<unsigned long long>(kernel_mask()), static_cast<unsigned long long>(mask));
  stack_t now = {};
  must(sigaltstack(nullptr, &now), "sigaltstack");
  if (who % 2)
    REQUIRE(now.ss_sp == memory.data() && now.ss_size == memory.size() && now.ss_flags == 0,
            "thread %d: alternate stack %p, %zu bytes, flags %x", who, now.ss_sp, now.ss_size, now.ss_flags);
  else
    REQUIRE(now.ss_flags == SS_DISABLE, "thread %d has got an alternate stack", who);
  must(sigaltstack(&none, nullptr), "sigaltstack");
  mask = ~0ULL;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, nullptr, 8);
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) threads.emplace_back(hold, i);
  wait_until([] { return waiting == 6; }, "all masks are set");
  uint64_t mask = 1ULL << (SIGTERM - 1) | 1ULL << 40;
  must(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, nullptr, 8), "rt_sigprocmask");
  ready();
  wait_for_go([&] { REQUIRE(kernel_mask() == mask, "the mask changes while waiting"); });
  REQUIRE(kernel_mask() == mask, "main thread: blocked %llx", static_cast<unsigned long long>(kernel_mask()));
  verify = true;
  for (std::thread& thread : threads) thread.join();
  return passed();
}
