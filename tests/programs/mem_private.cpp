// Private anonymous mappings of every protection: content, untouched pages, neighbours that stay apart.
#include "selfcheck.h"

#include <sys/mman.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  constexpr size_t size = 16 << 20;
  char* a = must_map(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
  for (size_t i = 0; i < size; i += 8192) fill(a + i, 4096, i);
  must(mprotect(a + (4 << 20), 4 << 20, PROT_READ), "mprotect");
  must(mprotect(a + (8 << 20), 4 << 20, PROT_READ | PROT_EXEC), "mprotect");
  // Written, then dropped: reads as zero.
  must(madvise(a + (12 << 20), 1 << 20, MADV_DONTNEED), "madvise");
  const std::string maps[] = {mapping_of(a + (4 << 20)), mapping_of(a + (8 << 20))};
  REQUIRE(!maps[0].empty() && !maps[1].empty(), "the mappings are not found in smaps");
  ready();
  size_t turn = 0;
  wait_for_go([&] {
    turn = (turn + 8192 * 37) % (12 << 20);
    require_filled(a + turn / 8192 * 8192, 4096, turn / 8192 * 8192, "a page");
  });

  for (size_t i = 0; i < size; i += 8192) {
    if (i < (12 << 20) || i >= (13 << 20)) require_filled(a + i, 4096, i, "a written page");
    else require_zero(a + i, 4096, "a dropped page");
    require_zero(a + i + 4096, 4096, "an untouched page");
  }
  REQUIRE(mapping_of(a + (4 << 20)) == maps[0], "was %s, is %s", maps[0].c_str(), mapping_of(a + (4 << 20)).c_str());
  REQUIRE(mapping_of(a + (8 << 20)) == maps[1], "was %s, is %s", maps[1].c_str(), mapping_of(a + (8 << 20)).c_str());
  must(mprotect(a, size, PROT_READ | PROT_WRITE), "mprotect of the whole");
  fill(a, size, 3);
  require_filled(a, size, 3, "memory written anew");
  return passed();
}
