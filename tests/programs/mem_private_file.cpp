// MAP_PRIVATE of a file: modified pages are the process's own, all others still come from the file.
#include "selfcheck.h"

#include <sys/mman.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  constexpr size_t size = 1 << 20;
  const std::string file = make_file("mapped", size, 1);
  const int fd = must(open(file.c_str(), O_RDONLY | O_CLOEXEC), "open");
  char* a = must_map(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0), "mmap");
  char* part = must_map(mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 131072), "mmap");
  char* readonly = must_map(mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0), "mmap");
  close(fd);
  for (size_t i = 0; i < size; i += 32768) fill(a + i, 4096, 50 + i);
  fill(part, 4096, 77);
  must(mprotect(a + 65536, 65536, PROT_READ), "mprotect");
  const std::string maps[] = {mapping_of(a), mapping_of(a + 65536), mapping_of(part), mapping_of(readonly)};
  ready();
  wait_for_go([&] { require_filled(a + 32768, 4096, 50 + 32768, "a modified page"); });

  const std::string now[] = {mapping_of(a), mapping_of(a + 65536), mapping_of(part), mapping_of(readonly)};
  for (int i = 0; i < 4; ++i) REQUIRE(now[i] == maps[i], "was %s, is %s", maps[i].c_str(), now[i].c_str());
  const std::string content = filled_text(size, 1);
  for (size_t i = 0; i < size; i += 4096) {
    if (i % 32768 == 0) require_filled(a + i, 4096, 50 + i, "a modified page");
    else REQUIRE(memcmp(a + i, content.data() + i, 4096) == 0, "a page of the file at %zu is wrong", i);
  }
  require_filled(part, 4096, 77, "a modified page of the part");
  REQUIRE(memcmp(part + 4096, content.data() + 131072 + 4096, 61440) == 0, "the mapped part of the file is wrong");
  REQUIRE(memcmp(readonly, content.data(), size) == 0, "the read-only mapping is wrong");
  REQUIRE(read_text(file) == content, "the file itself has changed");
  // An unmodified page still follows the file: it must not have become a copy.
  const int again = must(open(file.c_str(), O_WRONLY | O_CLOEXEC), "open");
  REQUIRE(pwrite(again, "changed", 7, 500000) == 7, "pwrite: %s", strerror(errno));
  REQUIRE(memcmp(readonly + 500000, "changed", 7) == 0, "the mapping does not follow its file any more");
  return passed();
}
