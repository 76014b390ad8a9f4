// A root directory of its own, with an open file and a mapping of one inside.
#include "selfcheck.h"

#include <sys/mman.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  must(mkdir(path("work").c_str(), 0755), "mkdir");
  make_file("work/file", 4096, 1);
  must(chroot(directory.c_str()), "chroot");
  must(chdir("/work"), "chdir");
  directory = "";
  const int fd = must(open("/work/file", O_RDONLY), "open");
  char* a = must_map(mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, fd, 0), "mmap");
  must(lseek(fd, 100, SEEK_SET), "lseek");
  ready();
  wait_for_go();
  char text[4096];
  REQUIRE(getcwd(text, sizeof text) && strcmp(text, "/work") == 0, "the working directory is %s", text);
  REQUIRE(access("/work/file", F_OK) == 0 && access("/usr", F_OK) != 0, "the root is another directory");
  REQUIRE(lseek(fd, 0, SEEK_CUR) == 100, "the position is wrong");
  require_filled(a, 4096, 1, "a mapped file inside the root");
  return passed();
}
