// Locked memory: mlock, mlock2(MLOCK_ONFAULT), and mlockall(MCL_FUTURE) for what comes.
#include "selfcheck.h"

#include <sys/mman.h>
#include <sys/resource.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  const rlimit none = {RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_MEMLOCK, &none);
  char* a = must_map(mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
  char* b = must_map(mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), "mmap");
  fill(a, 1 << 20, 1);
  must(mlock(a + 65536, 65536), "mlock");
  must(mlock2(b, 65536, MLOCK_ONFAULT), "mlock2");
  fill(b, 4096, 2);
  const std::string maps[] = {mapping_of(a + 65536), mapping_of(b)}, locked = status_line("VmLck");
  REQUIRE(maps[0].find(" lo") != std::string::npos, "mlock has no effect: %s", maps[0].c_str());
  ready();
  wait_for_go();
  const std::string now[] = {mapping_of(a + 65536), mapping_of(b)};
  for (int i = 0; i < 2; ++i) REQUIRE(now[i] == maps[i], "was %s, is %s", maps[i].c_str(), now[i].c_str());
  REQUIRE(status_line("VmLck") == locked, "locked: was %s, is %s", locked.c_str(), status_line("VmLck").c_str());
  require_filled(a, 1 << 20, 1, "locked memory");
  require_filled(b, 4096, 2, "shared locked memory");
  require_zero(b + 4096, 61440, "untouched shared locked memory");
  return passed();
}
