// Huge pages and the flags that madvise leaves on a mapping (VmFlags in smaps).
#include "selfcheck.h"

#include <sys/mman.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  constexpr size_t huge = 2 << 20;
  struct Advice {
    int advice;
    const char* flag;
    const char* name;
  };
  const Advice advices[] = {
      {MADV_HUGEPAGE, "hg", "MADV_HUGEPAGE"},   {MADV_NOHUGEPAGE, "nh", "MADV_NOHUGEPAGE"},
      {MADV_DONTFORK, "dc", "MADV_DONTFORK"},   {MADV_DONTDUMP, "dd", "MADV_DONTDUMP"},
      {MADV_WIPEONFORK, "wf", "MADV_WIPEONFORK"}, {MADV_SEQUENTIAL, "sr", "MADV_SEQUENTIAL"},
      {MADV_RANDOM, "rr", "MADV_RANDOM"},
  };
  constexpr int count = sizeof advices / sizeof advices[0];
  char* where[count];
  std::string maps[count];
  for (int i = 0; i < count; ++i) {
    char* a = must_map(mmap(nullptr, 6 * huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
    a += huge - reinterpret_cast<uintptr_t>(a) % huge;
    must(mprotect(a, 4 * huge, PROT_READ | PROT_WRITE), "mprotect");
    // A kernel without transparent huge pages refuses their two advices; the mapping is checked all the same.
    if (madvise(a, 4 * huge, advices[i].advice) == 0)
      REQUIRE(mapping_of(a).find(std::string(" ") + advices[i].flag) != std::string::npos, "%s sets no %s: %s",
              advices[i].name, advices[i].flag, mapping_of(a).c_str());
    fill(a, 2 * huge, i);
    fill(a + 3 * huge, huge, 100 + i);
    where[i] = a;
  }
  for (int i = 0; i < count; ++i) maps[i] = mapping_of(where[i]);
  ready();
  wait_for_go();
  for (int i = 0; i < count; ++i) {
    const std::string now = mapping_of(where[i]);
    REQUIRE(now == maps[i], "%s: was %s, is %s", advices[i].name, maps[i].c_str(), now.c_str());
    require_filled(where[i], 2 * huge, i, advices[i].name);
    require_zero(where[i] + 2 * huge, huge, advices[i].name);
    require_filled(where[i] + 3 * huge, huge, 100 + i, advices[i].name);
  }
  return passed();
}
