// Code made at run time: in writable and executable memory, and in memory that was made executable afterwards.
#include "selfcheck.h"

#include <sys/mman.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  // lea 42(%rdi), %eax; ret
  const unsigned char code[] = {0x8d, 0x47, 0x2a, 0xc3};
  char* both = must_map(mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
                        "mmap");
  char* made = must_map(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
  memcpy(both + 100, code, sizeof code);
  memcpy(made + 200, code, sizeof code);
  must(mprotect(made, 4096, PROT_EXEC), "mprotect");  // no reading
  int (*const first)(int) = reinterpret_cast<int (*)(int)>(both + 100);
  int (*const second)(int) = reinterpret_cast<int (*)(int)>(made + 200);
  ready();
  wait_for_go([&] { REQUIRE(first(1) == 43 && second(2) == 44, "made code does wrong while waiting"); });
  REQUIRE(first(100) == 142, "code in rwx memory gives %d", first(100));
  REQUIRE(second(100) == 142, "code in execute-only memory gives %d", second(100));
  return passed();
}
