// Regular files: position, flags, modes of opening; descriptors that share one description, and such that do not.
#include "selfcheck.h"

namespace {

int open_at(const std::string& file, int flags, int number) {
  const int fd = must(open(file.c_str(), flags, 0666), file.c_str());
  const int there = must(fcntl(fd, flags & O_CLOEXEC ? F_DUPFD_CLOEXEC : F_DUPFD, number), "F_DUPFD");
  close(fd);
  REQUIRE(there == number, "descriptor %d is in use", number);
  return there;
}

void require_at(int fd, off_t position) {
  const off_t now = lseek(fd, 0, SEEK_CUR);
  REQUIRE(now == position, "descriptor %d: position %ld, not %ld", fd, static_cast<long>(now),
          static_cast<long>(position));
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const std::string file = make_file("file", 100000, 1), log = make_file("log", 800, 2);
  const int a = open_at(file, O_RDWR | O_CLOEXEC, 10);
  const int same = must(dup2(a, 300), "dup2");
  const int same_too = must(fcntl(a, F_DUPFD_CLOEXEC, 301), "F_DUPFD_CLOEXEC");
  const int own = open_at(file, O_RDONLY, 12);
  const int writer = open_at(file, O_WRONLY | O_DSYNC | O_NOATIME, 13);
  const int append = open_at(log, O_WRONLY | O_APPEND | O_NONBLOCK, 14);
  const int path_only = open_at(file, O_PATH | O_CLOEXEC, 15);
  must(lseek(a, 1234, SEEK_SET), "lseek");
  must(lseek(own, 99999, SEEK_SET), "lseek");
  must(lseek(writer, 5'000'000'000, SEEK_SET), "lseek beyond the end");
  const int all[] = {a, same, same_too, own, writer, append, path_only};
  int flags[7], fd_flags[7];
  for (int i = 0; i < 7; ++i) {
    flags[i] = must(fcntl(all[i], F_GETFL), "F_GETFL");
    fd_flags[i] = must(fcntl(all[i], F_GETFD), "F_GETFD");
  }
  struct stat st_before;
  must(fstat(a, &st_before), "fstat");
  ready();
  wait_for_go([&] { require_at(same, 1234); });

  for (int i = 0; i < 7; ++i) {
    REQUIRE(fcntl(all[i], F_GETFL) == flags[i], "descriptor %d: flags %x, were %x", all[i], fcntl(all[i], F_GETFL),
            flags[i]);
    REQUIRE(fcntl(all[i], F_GETFD) == fd_flags[i], "descriptor %d: close-on-exec is wrong", all[i]);
    struct stat st;
    must(fstat(all[i], &st), "fstat");
    REQUIRE(all[i] == append || st.st_ino == st_before.st_ino, "descriptor %d is another file", all[i]);
  }
  for (int i = 3; i < 302; ++i) {
    bool ours = false;
    for (int fd : all) ours |= fd == i;
    REQUIRE(ours || fcntl(i, F_GETFD) == -1, "descriptor %d has come from nowhere: %s", i,
            link_text("/proc/self/fd/" + std::to_string(i)).c_str());
  }
  require_at(a, 1234);
  require_at(own, 99999);
  require_at(writer, 5'000'000'000);
  must(lseek(same, 77, SEEK_SET), "lseek");
  require_at(a, 77);
  require_at(same_too, 77);
  require_at(own, 99999);
  char text[800];
  REQUIRE(read(a, text, 0) == 0 && pread(a, text, 800, 0) == 800, "the file cannot be read");
  require_filled(text, 800, 1, "the file");
  REQUIRE(write(append, "more", 4) == 4, "the log cannot be written: %s", strerror(errno));
  REQUIRE(read_text(log) == filled_text(800, 2) + "more", "the log was not appended to");
  return passed();
}
