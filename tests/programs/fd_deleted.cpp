// Deleted files: the content lives on, holes stay holes, two descriptors and a mapping are one file.
#include "selfcheck.h"

#include <sys/mman.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  const std::string file = make_file("deleted", 50000, 1);
  const int a = must(open(file.c_str(), O_RDWR | O_CLOEXEC), "open");
  const int b = must(open(file.c_str(), O_RDONLY), "open");
  must(ftruncate(a, 10 << 20), "ftruncate");
  REQUIRE(pwrite(a, "at the end", 10, (10 << 20) - 10) == 10, "pwrite: %s", strerror(errno));
  must(fchmod(a, 0641), "fchmod");
  must(lseek(a, 1000, SEEK_SET), "lseek");
  must(lseek(b, 2000, SEEK_SET), "lseek");
  char* map = must_map(mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, a, 0), "mmap");
  fill(map + 32768, 4096, 2);
  must(unlink(file.c_str()), "unlink");
  // A second one, never named (O_TMPFILE), if the file system has that.
  const int unnamed = open(directory.c_str(), O_TMPFILE | O_RDWR, 0600);
  if (unnamed >= 0) REQUIRE(write(unnamed, "unnamed", 7) == 7, "write: %s", strerror(errno));
  // A third one whose name has been taken by another file.
  const std::string other = make_file("replaced", 8000, 3);
  const int replaced = must(open(other.c_str(), O_RDONLY), "open");
  must(unlink(other.c_str()), "unlink");
  make_file("replaced", 8000, 4);
  ready();
  wait_for_go();

  struct stat st;
  must(fstat(a, &st), "fstat");
  REQUIRE(st.st_size == 10 << 20, "size %ld", static_cast<long>(st.st_size));
  REQUIRE((st.st_mode & 07777) == 0641, "mode %o", st.st_mode & 07777);
  REQUIRE(st.st_blocks * 512 < 4 << 20, "the hole is filled: %ld blocks", static_cast<long>(st.st_blocks));
  REQUIRE(lseek(a, 0, SEEK_CUR) == 1000 && lseek(b, 0, SEEK_CUR) == 2000, "the positions are wrong");
  std::string text(32768, 0), expected = filled_text(50000, 1);
  REQUIRE(pread(b, text.data(), 32768, 0) == 32768 && expected.compare(0, 32768, text) == 0, "the content is wrong");
  require_filled(map + 32768, 4096, 2, "what was stored through the mapping");
  REQUIRE(pread(b, text.data(), 10, (10 << 20) - 10) == 10 && text.compare(0, 10, "at the end") == 0,
          "the end is wrong");
  REQUIRE(pwrite(a, "new", 3, 0) == 3 && pread(b, text.data(), 3, 0) == 3 && text.compare(0, 3, "new") == 0,
          "the two descriptors are not one file");
  REQUIRE(memcmp(map, "new", 3) == 0, "the mapping is of another file");
  REQUIRE(!(fcntl(b, F_GETFL) & O_RDWR) && write(b, "x", 1) == -1, "the second descriptor can write");
  REQUIRE(access(file.c_str(), F_OK) != 0, "the deleted file is back");
  if (unnamed >= 0)
    REQUIRE(pread(unnamed, text.data(), 100, 0) == 7 && text.compare(0, 7, "unnamed") == 0, "the unnamed file is wrong");
  REQUIRE(pread(replaced, text.data(), 8000, 0) == 8000, "the replaced file is short");
  require_filled(text.data(), 8000, 3, "the replaced file");
  return passed();
}
