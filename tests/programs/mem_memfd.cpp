// memfd: content, size, seals, position, name; a file and its mappings are one object. One lives in its mapping only.
#include "selfcheck.h"

#include <sys/mman.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  const std::string text = filled_text(100000, 1);
  const int fd = must(memfd_create("checked", MFD_ALLOW_SEALING | MFD_CLOEXEC), "memfd_create");
  REQUIRE(write(fd, text.data(), text.size()) == 100000, "write: %s", strerror(errno));
  must(ftruncate(fd, 1 << 20), "ftruncate");
  char* a = must_map(mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), "mmap");
  fill(a + (512 << 10), 4096, 2);
  must(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), "F_ADD_SEALS");
  must(lseek(fd, 12345, SEEK_SET), "lseek");

  const int sealed = must(memfd_create("sealed", MFD_ALLOW_SEALING), "memfd_create");
  REQUIRE(write(sealed, text.data(), 4096) == 4096, "write: %s", strerror(errno));
  must(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), "F_ADD_SEALS");

  const int closed = must(memfd_create("closed", 0), "memfd_create");
  must(ftruncate(closed, 65536), "ftruncate");
  char* alone = must_map(mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, closed, 0), "mmap");
  fill(alone, 8192, 3);
  close(closed);
  char* copy = must_map(mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0), "mmap");
  fill(copy + 4096, 4096, 4);
  ready();
  wait_for_go();

  REQUIRE(lseek(fd, 0, SEEK_CUR) == 12345, "position %ld, not 12345", static_cast<long>(lseek(fd, 0, SEEK_CUR)));
  REQUIRE(fcntl(fd, F_GETFD) == FD_CLOEXEC && fcntl(sealed, F_GETFD) == 0, "close-on-exec flags are wrong");
  REQUIRE(link_text("/proc/self/fd/" + std::to_string(fd)) == "/memfd:checked (deleted)", "it is named %s",
          link_text("/proc/self/fd/" + std::to_string(fd)).c_str());
  struct stat st;
  must(fstat(fd, &st), "fstat");
  REQUIRE(st.st_size == 1 << 20, "size %ld", static_cast<long>(st.st_size));
  REQUIRE(fcntl(fd, F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_GROW), "seals %x", fcntl(fd, F_GET_SEALS));
  REQUIRE(fcntl(sealed, F_GET_SEALS) == (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), "seals %x",
          fcntl(sealed, F_GET_SEALS));
  REQUIRE(memcmp(a, text.data(), text.size()) == 0, "the mapped content is wrong");
  require_zero(a + 102400, (512 << 10) - 102400, "the hole");
  require_filled(a + (512 << 10), 4096, 2, "what was stored through the mapping");
  require_filled(alone, 8192, 3, "a memfd without descriptor");
  REQUIRE(memcmp(copy, text.data(), 4096) == 0, "a private mapping of a memfd is wrong");
  require_filled(copy + 4096, 4096, 4, "a modified page of it");
  fill(a, 4096, 5);
  std::string now(4096, 0);
  REQUIRE(pread(fd, now.data(), 4096, 0) == 4096, "pread: %s", strerror(errno));
  require_filled(now.data(), 4096, 5, "the file, after a store through the mapping");
  require_filled(copy, 4096, 5, "the private mapping, after a store through the shared one");
  REQUIRE(pread(sealed, now.data(), 4096, 0) == 4096 && memcmp(now.data(), text.data(), 4096) == 0,
          "the sealed content is wrong");
  REQUIRE(pwrite(sealed, "x", 1, 0) == -1 && errno == EPERM, "a sealed memfd can be written");
  return passed();
}
