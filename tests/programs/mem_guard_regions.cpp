// Guard regions (MADV_GUARD_INSTALL, Linux 6.13) in private and shared memory: they fault, and nothing is in them when they
// are taken away.
#include "selfcheck.h"

#include <setjmp.h>
#include <sys/mman.h>

namespace {

constexpr int kInstall = 102, kRemove = 103;
constexpr size_t kPage = 4096;
sigjmp_buf out;

void on_fault(int) { siglongjmp(out, 1); }

bool faults(volatile char* p) {
  if (sigsetjmp(out, 1) != 0) return true;
  static_cast<void>(*p);
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  signal(SIGSEGV, on_fault);
  char* a = must_map(mmap(nullptr, 64 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
  char* b = must_map(mmap(nullptr, 64 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), "mmap");
  fill(a, 64 * kPage, 1);
  fill(b, 64 * kPage, 2);
  const bool has_private = madvise(a + 8 * kPage, 3 * kPage, kInstall) == 0 && madvise(a + 40 * kPage, kPage, kInstall) == 0;
  const bool has_shared = madvise(b + 8 * kPage, 3 * kPage, kInstall) == 0;  // Linux 6.15
  const auto check = [&] {
    for (size_t i = 0; i < 64; ++i) {
      const bool guard = has_private && ((i >= 8 && i < 11) || i == 40);
      REQUIRE(faults(a + i * kPage) == guard, "page %zu %s", i, guard ? "is no guard" : "faults");
      const bool shared_guard = has_shared && i >= 8 && i < 11;
      REQUIRE(faults(b + i * kPage) == shared_guard, "shared page %zu %s", i, shared_guard ? "is no guard" : "faults");
    }
  };
  check();
  ready();
  wait_for_go(check);
  check();
  if (has_private) {
    must(madvise(a, 64 * kPage, kRemove), "MADV_GUARD_REMOVE");
    require_zero(a + 8 * kPage, 3 * kPage, "what was guarded");
  }
  return passed();
}
