// Memory at the ends of the address space: just above mmap_min_addr, below 4 GiB, and the last page.
#include "selfcheck.h"

#include <sys/mman.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  char* const places[] = {reinterpret_cast<char*>(0x10000), reinterpret_cast<char*>(0x200000),
                          reinterpret_cast<char*>(0x7fff0000), reinterpret_cast<char*>(0xfffff000),
                          reinterpret_cast<char*>(0x100000000), reinterpret_cast<char*>(0x7fffffffe000)};
  for (char* place : places) {
    must_map(mmap(place, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
             "mmap at a fixed address");
    fill(place, 4096, reinterpret_cast<uintptr_t>(place));
  }
  ready();
  wait_for_go();
  for (char* place : places) require_filled(place, 4096, reinterpret_cast<uintptr_t>(place), "a page");
  return passed();
}
