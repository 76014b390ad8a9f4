// Restartable sequences: the area that glibc registered for each thread goes on being filled in by the kernel.
#include "selfcheck.h"

#include <linux/rseq.h>
#include <sched.h>

#include <atomic>
#include <thread>

constexpr unsigned RSEQ_SIG = 0x53053053;  // what glibc registers with

extern "C" {
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));
}

namespace {

std::atomic<int> waiting{0};
std::atomic<bool> verify{false};

volatile struct rseq* area() {
  return reinterpret_cast<volatile struct rseq*>(static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset);
}

void follow_cpu(const char* who) {
  cpu_set_t allowed;
  must(sched_getaffinity(0, sizeof allowed, &allowed), "sched_getaffinity");
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    must(sched_setaffinity(0, sizeof one, &one), "sched_setaffinity");
    REQUIRE(static_cast<int>(area()->cpu_id) == cpu, "%s: on cpu %d, but its rseq area says %d", who, cpu,
            static_cast<int>(area()->cpu_id));
  }
  must(sched_setaffinity(0, sizeof allowed, &allowed), "sched_setaffinity");
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const bool registered = &__rseq_size && __rseq_size != 0;
  if (registered) follow_cpu("main thread");
  std::thread other([&] {
    ++waiting;
    while (!verify) sleep_ns(2'000'000);
    if (registered) follow_cpu("thread");
  });
  wait_until([] { return waiting == 1; }, "the thread waits");
  ready();
  wait_for_go();
  if (registered) follow_cpu("main thread");
  verify = true;
  other.join();
  // glibc's registration is the one that is in force: a second one with the same area is refused as such.
  if (registered) {
    const long result = syscall(SYS_rseq, area(), 32, 0, RSEQ_SIG);
    REQUIRE(result == -1 && errno == EBUSY, "registering rseq again gives %ld, %s", result, strerror(errno));
  }
  return passed();
}
