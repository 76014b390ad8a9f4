// Protection keys: which are allocated, what the thread may do with each, and which memory has which. On a CPU without
// them there is nothing to check.
#include "selfcheck.h"

#include <setjmp.h>
#include <sys/mman.h>

namespace {

sigjmp_buf out;
int code;

void on_fault(int, siginfo_t* info, void*) {
  code = info->si_code;
  siglongjmp(out, 1);
}

bool can_write(volatile char* p) {
  if (sigsetjmp(out, 1) != 0) return false;
  *p = *p;
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  must(sigaction(SIGSEGV, &action, nullptr), "sigaction");
  char* a = must_map(mmap(nullptr, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
  fill(a, 4 * 4096, 3);
  const int first = pkey_alloc(0, 0), gap = pkey_alloc(0, 0), second = pkey_alloc(0, PKEY_DISABLE_WRITE);
  if (second < 0) {
    ready();
    wait_for_go();
    return passed();
  }
  const int freed = pkey_alloc(0, 0);
  must(pkey_mprotect(a + 4096, 4096, PROT_READ | PROT_WRITE, second), "pkey_mprotect");
  must(pkey_mprotect(a + 8192, 4096, PROT_READ | PROT_WRITE, freed), "pkey_mprotect");
  must(pkey_free(gap), "pkey_free");
  must(pkey_free(freed), "pkey_free");
  const std::string key = line_value(smaps_of(a + 4096), "ProtectionKey"), stale = line_value(smaps_of(a + 8192), "ProtectionKey");
  REQUIRE(key == std::to_string(second) && stale == std::to_string(freed), "keys %s and %s", key.c_str(), stale.c_str());
  ready();
  wait_for_go();
  REQUIRE(line_value(smaps_of(a + 4096), "ProtectionKey") == key && line_value(smaps_of(a + 8192), "ProtectionKey") == stale,
          "the memory has other keys: %s, %s", line_value(smaps_of(a + 4096), "ProtectionKey").c_str(),
          line_value(smaps_of(a + 8192), "ProtectionKey").c_str());
  REQUIRE(pkey_get(first) == 0 && pkey_get(second) == PKEY_DISABLE_WRITE, "rights %d and %d", pkey_get(first), pkey_get(second));
  REQUIRE(!can_write(a + 4096) && code == SEGV_PKUERR, "the memory can be written (si_code %d)", code);
  must(pkey_set(second, 0), "pkey_set");
  REQUIRE(can_write(a + 4096), "the memory cannot be written");
  must(pkey_mprotect(a, 4 * 4096, PROT_READ | PROT_WRITE, 0), "pkey_mprotect");
  require_filled(a, 4 * 4096, 3, "the memory");
  const int again[] = {pkey_alloc(0, 0), pkey_alloc(0, 0)};
  REQUIRE(again[0] == gap && again[1] == freed, "free were %d and %d, not %d and %d", again[0], again[1], gap, freed);
  REQUIRE(pkey_free(first) == 0 && pkey_free(second) == 0, "pkey_free: %s", strerror(errno));
  return passed();
}
