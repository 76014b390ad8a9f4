// Files that are renamed, replaced under their old name, or moved, between checkpoint and resume.
#include "selfcheck.h"

#include <sys/mman.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  const std::string moved = make_file("moved", 4096, 1), mapped = make_file("mapped", 8192, 2);
  must(mkdir(path("directory").c_str(), 0755), "mkdir");
  const std::string inside = make_file("directory/inside", 4096, 3);
  const int a = must(open(moved.c_str(), O_RDWR), "open");
  const int b = must(open(inside.c_str(), O_RDONLY), "open");
  const int m = must(open(mapped.c_str(), O_RDONLY), "open");
  char* map = must_map(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, m, 0), "mmap");
  close(m);
  fill(map, 4096, 4);
  must(lseek(a, 10, SEEK_SET), "lseek");
  make_file("between", 0, 0);
  const int script = must(open(path("between").c_str(), O_WRONLY | O_TRUNC), "open");
  // An impostor stands under the old name.
  const std::string text = "mv moved elsewhere\nhead -c 4096 /dev/zero > moved\nmv mapped map2\nmv directory folder\n";
  REQUIRE(write(script, text.data(), text.size()) == static_cast<ssize_t>(text.size()), "write: %s", strerror(errno));
  close(script);
  ready();
  wait_for_go();
  std::string got(4096, 0);
  REQUIRE(pread(a, got.data(), 4096, 0) == 4096, "pread: %s", strerror(errno));
  require_filled(got.data(), 4096, 1, "the renamed file");
  REQUIRE(lseek(a, 0, SEEK_CUR) == 10, "its position is wrong");
  REQUIRE(pwrite(a, "w", 1, 0) == 1, "pwrite: %s", strerror(errno));
  REQUIRE(read_text(path("elsewhere"))[0] == 'w', "a write does not reach the renamed file");
  REQUIRE(pread(b, got.data(), 4096, 0) == 4096, "pread: %s", strerror(errno));
  require_filled(got.data(), 4096, 3, "the file in a renamed directory");
  require_filled(map, 4096, 4, "a modified page of a renamed file");
  REQUIRE(memcmp(map + 4096, filled_text(8192, 2).data() + 4096, 4096) == 0, "a page of a renamed file is wrong");
  return passed();
}
