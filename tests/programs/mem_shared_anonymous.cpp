// MAP_SHARED|MAP_ANONYMOUS: one object, mapped twice (mremap with an old size of 0), inherited by children.
#include "selfcheck.h"

#include <sys/mman.h>
#include <sys/wait.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  constexpr size_t size = 1 << 20;
  char* a = must_map(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), "mmap");
  char* b = must_map(mremap(a, 0, size, MREMAP_MAYMOVE), "mremap of a second view");
  char* other = must_map(mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), "mmap");
  for (size_t i = 0; i < size; i += 16384) fill(a + i, 4096, i);
  fill(other, 65536, 99);
  ready();
  wait_for_go([&] { require_filled(b + 16384, 4096, 16384, "the second view"); });

  for (char* view : {a, b})
    for (size_t i = 0; i < size; i += 16384) {
      require_filled(view + i, 4096, i, "a shared page");
      require_zero(view + i + 4096, 12288, "an untouched shared page");
    }
  require_filled(other, 65536, 99, "the other shared memory");
  fill(a + 4096, 4096, 7);
  require_filled(b + 4096, 4096, 7, "the second view, after a store through the first");
  const pid_t child = must(fork(), "fork");
  if (child == 0) {
    fill(b + 8192, 4096, 8);
    _exit(0);
  }
  int status = 0;
  must(waitpid(child, &status, 0), "waitpid");
  require_filled(a + 8192, 4096, 8, "memory shared with a child");
  return passed();
}
