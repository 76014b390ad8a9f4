// MAP_SHARED of a file: stores reach the file, and a second mapping shows them.
#include "selfcheck.h"

#include <sys/mman.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  constexpr size_t size = 1 << 20;
  const std::string file = make_file("mapped", size, 1);
  const int fd = must(open(file.c_str(), O_RDWR | O_CLOEXEC), "open");
  char* a = must_map(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), "mmap");
  char* b = must_map(mmap(nullptr, 65536, PROT_READ, MAP_SHARED, fd, 65536), "mmap");
  close(fd);
  fill(a + 65536, 65536, 9);
  const std::string maps[] = {mapping_of(a), mapping_of(b)};
  ready();
  wait_for_go([&] { require_filled(b, 65536, 9, "the second mapping"); });

  const std::string now[] = {mapping_of(a), mapping_of(b)};
  for (int i = 0; i < 2; ++i) REQUIRE(now[i] == maps[i], "was %s, is %s", maps[i].c_str(), now[i].c_str());
  std::string content = filled_text(size, 1);
  fill(content.data() + 65536, 65536, 9);
  REQUIRE(memcmp(a, content.data(), size) == 0, "the mapping is wrong");
  REQUIRE(read_text(file) == content, "the file is wrong");
  fill(a + 65536, 65536, 10);
  fill(content.data() + 65536, 65536, 10);
  require_filled(b, 65536, 10, "the second mapping, after a store through the first");
  REQUIRE(read_text(file) == content, "a store does not reach the file");
  return passed();
}
