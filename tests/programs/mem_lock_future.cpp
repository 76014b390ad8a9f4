// mlockall(MCL_FUTURE), with MCL_ONFAULT where the pid is odd: memory that is mapped afterwards is locked; and
// PR_SET_MEMORY_MERGE.
#include "selfcheck.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

namespace {

constexpr int kSetMerge = 67, kGetMerge = 68;

std::string new_mapping() {
  char* a = must_map(mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
  must(mprotect(a + 4096, 4096, PROT_READ), "mprotect");  // a mapping of its own
  unsigned char resident = 0;
  must(mincore(a + 4096, 4096, &resident), "mincore");
  const std::string flags = " " + line_value(smaps_of(a + 4096), "VmFlags") + " ";
  munmap(a, 65536);
  const auto has = [&](const char* flag) { return flags.find(flag) != std::string::npos; };
  return std::string(has(" lo ") ? "locked" : "not locked") + (has(" lf ") ? " on fault" : "") +
         (resident & 1 ? ", resident" : "") + (has(" mg ") ? ", mergeable" : "");
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const rlimit none = {RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_MEMLOCK, &none);
  prctl(kSetMerge, 1, 0, 0, 0);  // Linux 6.4
  const int merge = prctl(kGetMerge, 0, 0, 0, 0);
  must(mlockall(MCL_FUTURE | (getpid() % 2 != 0 ? MCL_ONFAULT : 0)), "mlockall");
  const std::string before = new_mapping();
  REQUIRE(before.rfind("locked", 0) == 0, "mlockall has no effect: %s", before.c_str());
  ready();
  wait_for_go();
  REQUIRE(new_mapping() == before, "new memory was: %s; is: %s", before.c_str(), new_mapping().c_str());
  REQUIRE(prctl(kGetMerge, 0, 0, 0, 0) == merge, "PR_GET_MEMORY_MERGE gives %d, not %d", prctl(kGetMerge, 0, 0, 0, 0), merge);
  return passed();
}
