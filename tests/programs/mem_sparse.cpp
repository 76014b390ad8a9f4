// A gibibyte reserved, a few pages touched: they are where they were, and no others have come into being.
#include "selfcheck.h"

#include <sys/mman.h>

#include <vector>

namespace {

size_t resident(char* a, size_t size) {
  std::vector<unsigned char> pages(size / 4096);
  must(mincore(a, size, pages.data()), "mincore");
  size_t n = 0;
  for (unsigned char page : pages) n += page & 1;
  return n;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  constexpr size_t size = 1 << 30;
  char* a = must_map(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
                     "mmap");
  must(madvise(a, size, MADV_NOHUGEPAGE), "madvise");
  const size_t places[] = {0, 4096, 1 << 20, (5 << 20) + 4096, 300 << 20, 301 << 20, 777 << 20, size - 4096};
  for (size_t place : places) fill(a + place, 4096, place);
  static_cast<void>(*static_cast<volatile char*>(a + (400 << 20)));  // the zero page
  const std::string map = mapping_of(a);
  ready();
  wait_for_go();
  REQUIRE(mapping_of(a) == map, "was %s, is %s", map.c_str(), mapping_of(a).c_str());
  const size_t count = resident(a, size);
  REQUIRE(count <= 64, "%zu pages are resident, not 9", count);
  for (size_t place : places) require_filled(a + place, 4096, place, "a touched page");
  require_zero(a + (400 << 20), 4096, "a page that was only read");
  require_zero(a + 8192, (1 << 20) - 8192, "untouched pages");
  return passed();
}
