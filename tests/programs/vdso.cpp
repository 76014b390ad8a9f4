// The vDSO: time is right, never goes back, and comes without a system call, in several threads.
#include "selfcheck.h"

#include <sched.h>
#include <sys/auxv.h>
#include <sys/time.h>

#include <atomic>
#include <thread>

namespace {

std::atomic<bool> stop{false};

void watch_time() {
  for (int64_t last = 0; !stop;) {
    for (int i = 0; i < 1000; ++i) {
      const int64_t now = now_ns();
      REQUIRE(now >= last, "CLOCK_MONOTONIC went back by %lld ns", static_cast<long long>(last - now));
      last = now;
    }
    sleep_ns(1'000'000);
  }
}

int64_t kernel_ns(clockid_t clock) {
  timespec t;
  syscall(SYS_clock_gettime, clock, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  std::thread first(watch_time), second(watch_time);
  const unsigned long header = getauxval(AT_SYSINFO_EHDR);
  ready();
  wait_for_go();
  REQUIRE(getauxval(AT_SYSINFO_EHDR) == header && memcmp(reinterpret_cast<void*>(header), "\177ELF", 4) == 0,
          "the vDSO is not where it was");
  for (clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW}) {
    const int64_t a = kernel_ns(clock), b = now_ns(clock), c = kernel_ns(clock);
    REQUIRE(a <= b && b <= c, "clock %d: %lld by the vDSO between %lld and %lld", clock, static_cast<long long>(b),
            static_cast<long long>(a), static_cast<long long>(c));
  }
  timeval t;
  REQUIRE(gettimeofday(&t, nullptr) == 0 && t.tv_sec >= kernel_ns(CLOCK_REALTIME) / 1000000000 - 1, "gettimeofday");
  cpu_set_t allowed, one;
  CPU_ZERO(&one);
  must(sched_getaffinity(0, sizeof allowed, &allowed), "sched_getaffinity");
  unsigned cpu = 0, node = 0;
  while (!CPU_ISSET(cpu, &allowed)) ++cpu;
  CPU_SET(cpu, &one);
  must(sched_setaffinity(0, sizeof one, &one), "sched_setaffinity");
  unsigned got = ~0u;
  REQUIRE(getcpu(&got, &node) == 0 && got == cpu, "getcpu gives %u, not %u", got, cpu);
  const std::string maps = read_text("/proc/self/maps");
  REQUIRE(maps.find("[vdso]") != std::string::npos && maps.find("[vvar]") != std::string::npos,
          "the kernel knows no vDSO of ours");
  stop = true;
  first.join();
  second.join();
  return passed();
}
