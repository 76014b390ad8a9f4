// What a program has chosen for its address space that is no memory: registrations of membarrier(2), a table of futexes.
#include "selfcheck.h"

#include <linux/membarrier.h>
#include <sys/prctl.h>

namespace {

constexpr int kGetRegistrations = 1 << 9;                         // Linux 6.3
constexpr int kFutexHash = 78, kSetSlots = 1, kGetSlots = 2;      // PR_FUTEX_HASH, Linux 6.17
constexpr long kSlots = 64;

long membarrier(int command) { return syscall(SYS_membarrier, command, 0, 0); }

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  must(membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED), "membarrier");
  must(membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE), "membarrier");
  must(membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED), "membarrier");
  const long registrations = membarrier(kGetRegistrations);
  const bool has_table = prctl(kFutexHash, kSetSlots, kSlots, 0, 0) == 0;
  ready();
  wait_for_go();
  REQUIRE(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0, "membarrier: %s", strerror(errno));
  REQUIRE(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE) == 0, "membarrier of the cores: %s", strerror(errno));
  REQUIRE(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ) != 0, "membarrier of rseq was not registered");
  REQUIRE(membarrier(kGetRegistrations) == registrations, "registrations are %#lx, not %#lx", membarrier(kGetRegistrations),
          registrations);
  const int slots = prctl(kFutexHash, kGetSlots, 0, 0, 0);
  REQUIRE(!has_table || slots == kSlots, "%d slots, not %ld", slots, kSlots);
  return passed();
}
