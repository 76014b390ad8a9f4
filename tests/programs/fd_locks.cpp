// File locks: flock and open-file-description locks go with the description, POSIX locks with the process.
#include "selfcheck.h"

#include <sys/file.h>
#include <sys/wait.h>

namespace {

struct flock range(short type, off_t start, off_t length) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = start;
  lock.l_len = length;
  return lock;
}

/// What another process would meet: the type, start and length of the first conflicting lock.
std::string met_by_another(const std::string& file, short type, off_t start, off_t length) {
  int ends[2];
  must(pipe(ends), "pipe");
  const pid_t child = must(fork(), "fork");
  if (child == 0) {
    const int fd = open(file.c_str(), O_RDWR);
    struct flock lock = range(type, start, length);
    char text[100] = "an error";
    if (fcntl(fd, F_GETLK, &lock) == 0)
      snprintf(text, sizeof text, "%s %ld %ld %d", lock.l_type == F_UNLCK ? "none" : lock.l_type == F_RDLCK ? "read" :
               "write", static_cast<long>(lock.l_start), static_cast<long>(lock.l_len), lock.l_pid == getppid());
    _exit(write(ends[1], text, strlen(text)) < 0);
  }
  char text[100] = {};
  REQUIRE(read(ends[0], text, sizeof text - 1) > 0, "the child says nothing");
  waitpid(child, nullptr, 0);
  close(ends[0]);
  close(ends[1]);
  return text;
}

void require_met(const std::string& file, short type, off_t start, off_t length, const std::string& what) {
  const std::string met = met_by_another(file, type, start, length);
  REQUIRE(met == what, "%s at %ld: another process meets %s, not %s", file.c_str(), static_cast<long>(start),
          met.c_str(), what.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const std::string exclusive = make_file("exclusive", 1000, 1), shared = make_file("shared", 1000, 2),
                    posix = make_file("posix", 1000, 3), ofd = make_file("ofd", 1000, 4);
  const int a = must(open(exclusive.c_str(), O_RDWR), "open"), b = must(open(shared.c_str(), O_RDONLY), "open"),
            c = must(open(posix.c_str(), O_RDWR), "open"), d = must(open(ofd.c_str(), O_RDWR), "open");
  must(flock(a, LOCK_EX), "flock");
  must(flock(b, LOCK_SH), "flock");
  struct flock lock = range(F_WRLCK, 10, 20);
  must(fcntl(c, F_SETLK, &lock), "F_SETLK");
  lock = range(F_RDLCK, 100, 0);
  must(fcntl(c, F_SETLK, &lock), "F_SETLK");
  lock = range(F_WRLCK, 50, 5);
  must(fcntl(d, F_OFD_SETLK, &lock), "F_OFD_SETLK");
  ready();
  wait_for_go();
  const int a2 = must(open(exclusive.c_str(), O_RDWR), "open"), b2 = must(open(shared.c_str(), O_RDONLY), "open"),
            d2 = must(open(ofd.c_str(), O_RDWR), "open");
  REQUIRE(flock(a2, LOCK_SH | LOCK_NB) == -1 && errno == EWOULDBLOCK, "the exclusive flock is lost");
  REQUIRE(flock(b2, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK, "the shared flock is lost");
  REQUIRE(flock(b2, LOCK_SH | LOCK_NB) == 0, "the shared flock has become exclusive");
  require_met(posix, F_WRLCK, 0, 10, "none 0 10 0");
  require_met(posix, F_RDLCK, 0, 50, "write 10 20 1");
  require_met(posix, F_RDLCK, 60, 0, "none 60 0 0");
  require_met(posix, F_WRLCK, 60, 0, "read 100 0 1");
  lock = range(F_RDLCK, 52, 1);
  REQUIRE(fcntl(d2, F_OFD_SETLK, &lock) == -1 && errno == EAGAIN, "the OFD lock is lost");
  lock = range(F_WRLCK, 55, 0);
  REQUIRE(fcntl(d2, F_OFD_SETLK, &lock) == 0, "the OFD lock has grown");
  close(d);
  lock = range(F_RDLCK, 52, 1);
  REQUIRE(fcntl(d2, F_OFD_SETLK, &lock) == 0, "the OFD lock outlives its description");
  return passed();
}
