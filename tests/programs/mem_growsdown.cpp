// Stacks: a MAP_GROWSDOWN mapping still grows, and the main stack keeps what deep recursion left on it.
#include "selfcheck.h"

#include <sys/mman.h>

namespace {

char* area;
std::string before;

void recurse(int depth) {
  char frame[4096];
  fill(frame, sizeof frame, depth);
  if (depth < 300) {
    recurse(depth + 1);
  } else {
    ready();
    wait_for_go();
    REQUIRE(mapping_of(area) == before, "was %s, is %s", before.c_str(), mapping_of(area).c_str());
  }
  require_filled(frame, sizeof frame, depth, "a frame on the main stack");
}

__attribute__((noinline)) int deeper(int depth) {
  volatile char frame[4096];
  frame[0] = 1;
  return depth == 0 ? 0 : deeper(depth - 1) + frame[0];
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  // Room below it, so that it can grow: stack_guard_gap is 256 pages.
  char* room = must_map(mmap(nullptr, 16 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
  must(munmap(room, 16 << 20), "munmap");
  area = must_map(mmap(room + (15 << 20), 65536, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_STACK | MAP_FIXED_NOREPLACE, -1, 0), "mmap");
  fill(area, 65536, 1);
  area -= 32768;
  fill(area, 32768, 2);
  before = mapping_of(area);
  REQUIRE(before.find(" gd") != std::string::npos, "the mapping does not grow: %s", before.c_str());
  recurse(0);
  require_filled(area, 32768, 2, "the grown part of a stack");
  require_filled(area + 32768, 65536, 1, "the first part of a stack");
  fill(area - 65536, 65536, 3);
  require_filled(area - 65536, 65536, 3, "a stack that grew on");
  deeper(500);  // 2 MiB: the main stack grows on too
  return passed();
}
