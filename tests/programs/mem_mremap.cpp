// Mappings that were moved, grown and shrunk by mremap, and pieces of one file mapping.
#include "selfcheck.h"

#include <sys/mman.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  char* room = must_map(mmap(nullptr, 4 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
  char* a = must_map(mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
  fill(a, 65536, 1);
  // The moved area keeps the offset of its old address: neighbours with unequal offsets never merge again.
  a = must_map(mremap(a, 65536, 65536, MREMAP_MAYMOVE | MREMAP_FIXED, room + (1 << 20)), "mremap");
  char* next = must_map(mmap(room + (1 << 20) + 65536, 65536, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), "mmap");
  fill(next, 65536, 2);
  char* grown = must_map(mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
  fill(grown, 65536, 3);
  grown = must_map(mremap(grown, 65536, 1 << 20, MREMAP_MAYMOVE), "mremap");
  fill(grown + (1 << 20) - 4096, 4096, 4);
  const std::string file = make_file("mapped", 1 << 20, 5);
  const int fd = must(open(file.c_str(), O_RDONLY | O_CLOEXEC), "open");
  char* pieces = must_map(mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0), "mmap");
  close(fd);
  fill(pieces + (512 << 10), 4096, 6);
  must(munmap(pieces + (128 << 10), 128 << 10), "munmap");
  char* moved = must_map(mremap(pieces + (512 << 10), 65536, 65536, MREMAP_MAYMOVE | MREMAP_FIXED, room + (3 << 20)),
                         "mremap");
  const std::string maps[] = {mapping_of(a), mapping_of(moved), mapping_of(pieces + (256 << 10))};
  ready();
  wait_for_go();
  const std::string now[] = {mapping_of(a), mapping_of(moved), mapping_of(pieces + (256 << 10))};
  // Whether two anonymous neighbours are one mapping or two is the kernel's own matter.
  for (int i = 1; i < 3; ++i) REQUIRE(now[i] == maps[i], "was %s, is %s", maps[i].c_str(), now[i].c_str());
  require_filled(a, 65536, 1, "a moved mapping");
  require_filled(next, 65536, 2, "its neighbour");
  require_filled(grown, 65536, 3, "a grown mapping");
  require_zero(grown + 65536, (1 << 20) - 65536 - 4096, "the new part of a grown mapping");
  require_filled(grown + (1 << 20) - 4096, 4096, 4, "the end of a grown mapping");
  const std::string content = filled_text(1 << 20, 5);
  require_filled(moved, 4096, 6, "a modified page of a moved file mapping");
  REQUIRE(memcmp(moved + 4096, content.data() + (512 << 10) + 4096, 61440) == 0, "a moved file mapping is wrong");
  REQUIRE(memcmp(pieces, content.data(), 128 << 10) == 0, "the first piece is wrong");
  REQUIRE(memcmp(pieces + (256 << 10), content.data() + (256 << 10), 256 << 10) == 0, "the second piece is wrong");
  return passed();
}
