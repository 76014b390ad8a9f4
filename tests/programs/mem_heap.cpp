// The heap: its end (brk), what stands in it, and that it can grow on.
#include "selfcheck.h"

#include <vector>

int main(int argc, char** argv) {
  begin(argc, argv);
  std::vector<char*> blocks;
  for (int i = 0; i < 64; ++i) {
    blocks.push_back(static_cast<char*>(malloc(40000)));
    fill(blocks.back(), 40000, i);
  }
  char* const grown = static_cast<char*>(sbrk(0));
  must(reinterpret_cast<long>(sbrk(3 << 20)), "sbrk");
  fill(grown, 1 << 20, 100);
  char* const end = static_cast<char*>(sbrk(0));
  ready();
  wait_for_go([&] { require_filled(blocks[7], 40000, 7, "a heap block"); });

  REQUIRE(sbrk(0) == end, "the program break has moved from %p to %p", end, sbrk(0));
  for (int i = 0; i < 64; ++i) require_filled(blocks[i], 40000, i, "a heap block");
  require_filled(grown, 1 << 20, 100, "memory from sbrk");
  require_zero(grown + (1 << 20), 2 << 20, "untouched memory from sbrk");
  REQUIRE(sbrk(1 << 20) == end, "sbrk does not grow the heap at its end");
  fill(end, 1 << 20, 101);
  require_filled(end, 1 << 20, 101, "new memory from sbrk");
  REQUIRE(read_text("/proc/self/maps").find("[heap]") != std::string::npos, "the kernel knows no heap any more");
  for (char* block : blocks) free(block);
  return passed();
}
