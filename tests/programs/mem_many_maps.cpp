// 2000 mappings.
#include "selfcheck.h"

#include <sys/mman.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  constexpr int count = 2000;
  char* a = must_map(mmap(nullptr, count * 8192L, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
  for (int i = 0; i < count; ++i) {
    fill(a + i * 8192L, 64, i);
    must(mprotect(a + i * 8192L, 4096, i % 2 ? PROT_READ : PROT_READ | PROT_EXEC), "mprotect");
  }
  const auto lines = [] {
    int n = 0;
    for (char c : read_text("/proc/self/maps")) n += c == '\n';
    return n;
  };
  const int before = lines();
  REQUIRE(before > count, "only %d mappings could be made", before);
  ready();
  wait_for_go();
  const int after = lines();
  REQUIRE(after >= before - 4 && after <= before + 4, "there were %d mappings, now there are %d", before, after);
  for (int i = 0; i < count; ++i) {
    require_filled(a + i * 8192L, 64, i, "one of many mappings");
    require_zero(a + i * 8192L + 4096, 4096, "one of many mappings");
  }
  return passed();
}
