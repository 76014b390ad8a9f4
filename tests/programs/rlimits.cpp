// Resource limits, soft and hard.
#include "selfcheck.h"

#include <sys/resource.h>

#include <algorithm>

int main(int argc, char** argv) {
  begin(argc, argv);
  const auto set = [](__rlimit_resource resource, rlim_t soft, rlim_t hard) {
    // Only downwards: not every root may raise a hard limit.
    rlimit limit = {};
    must(getrlimit(resource, &limit), "getrlimit");
    limit = {std::min(soft, limit.rlim_max), std::min(hard, limit.rlim_max)};
    must(setrlimit(resource, &limit), "setrlimit");
  };
  set(RLIMIT_CORE, 12345, 67890);
  set(RLIMIT_NOFILE, 77, 512);
  set(RLIMIT_STACK, 4 << 20, 64 << 20);
  set(RLIMIT_FSIZE, 1 << 30, RLIM_INFINITY);
  set(RLIMIT_SIGPENDING, 99, 1000);
  set(RLIMIT_NICE, 5, 15);
  set(RLIMIT_CPU, 3600, 7200);
  const std::string before = read_text("/proc/self/limits");
  ready();
  wait_for_go();
  const std::string now = read_text("/proc/self/limits");
  REQUIRE(now == before, "were:\n%s, are:\n%s", before.c_str(), now.c_str());
  return passed();
}
