// File descriptions that several processes have: position, flags, locks, pipes between them, an eventfd, an epoll instance,
// a pidfd of a child, a file of another's directory in /proc.
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>

#include "family.h"

namespace {

int pidfd_of(pid_t pid) { return static_cast<int>(must(syscall(SYS_pidfd_open, pid, 0), "pidfd_open")); }

/// A lock to write one byte.
struct flock byte_lock(off_t at) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_start = at;
  lock.l_len = 1;
  return lock;
}

bool is_locked(int fd, off_t at) {
  struct flock lock = byte_lock(at);
  must(fcntl(fd, F_GETLK, &lock), "F_GETLK");
  return lock.l_type != F_UNLCK;
}

void lock_byte(int fd, off_t at) {
  const struct flock lock = byte_lock(at);
  must(fcntl(fd, F_SETLK, &lock), "F_SETLK");
}

char take(int fd) {
  char c = 0;
  REQUIRE(read(fd, &c, 1) == 1, "reading: %s", strerror(errno));
  return c;
}

void give(int fd, char c) { REQUIRE(write(fd, &c, 1) == 1, "writing: %s", strerror(errno)); }

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  Roll roll;
  const int file = must(open(make_file("file", 1000, 5).c_str(), O_RDWR | O_CLOEXEC), "open");
  must(static_cast<int>(lseek(file, 100, SEEK_SET)), "lseek");
  must(flock(file, LOCK_EX), "flock");
  int there[2], back[2];
  must(pipe(there), "pipe");
  must(pipe(back), "pipe");
  const int event = must(eventfd(3, EFD_NONBLOCK), "eventfd");
  const int epoll = must(epoll_create1(0), "epoll_create1");
  epoll_event watch = {};
  watch.events = EPOLLIN;
  watch.data.u64 = 77;
  must(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &watch), "epoll_ctl");
  lock_byte(file, 1);
  give(there[1], 'q');

  const pid_t other = child([&] {
    close(there[1]);
    close(back[0]);
    lock_byte(file, 2);
    const int again = must(dup(file), "dup");
    const int high = must(fcntl(back[1], F_DUPFD_CLOEXEC, 100), "F_DUPFD");
    roll.here();
    wait_in_place("the other");
    REQUIRE(take(there[0]) == 'q', "the pipe has lost its content");
    REQUIRE(take(there[0]) == 'a', "the pipe from the first is wrong");
    REQUIRE(lseek(again, 0, SEEK_CUR) == 150, "the position is not shared: %ld", lseek(again, 0, SEEK_CUR));
    must(static_cast<int>(lseek(file, 200, SEEK_SET)), "lseek");
    REQUIRE(is_locked(file, 1), "the first has lost its lock");
    REQUIRE(fcntl(high, F_GETFD) == FD_CLOEXEC && fcntl(back[1], F_GETFD) == 0, "close-on-exec is wrong");
    epoll_event ready_now = {};
    REQUIRE(epoll_wait(epoll, &ready_now, 1, 0) == 1 && ready_now.data.u64 == 77, "the epoll instance is wrong");
    uint64_t count = 0;
    REQUIRE(read(event, &count, sizeof count) == sizeof count && count == 5, "the eventfd has %lu", count);
    give(high, 'b');
    REQUIRE(take(there[0]) == 'c', "the pipe from the first is wrong");
  });
  close(there[0]);
  close(back[1]);
  const int pidfd = pidfd_of(other);
  const int status = must(open(("/proc/" + std::to_string(other) + "/comm").c_str(), O_RDONLY | O_CLOEXEC), "open");
  const pid_t ended = child([] { _exit(0); });
  const int ended_fd = pidfd_of(ended);
  siginfo_t info;
  must(waitid(P_PID, static_cast<id_t>(ended), &info, WEXITED | WNOWAIT), "waitid");
  roll.wait_for(1);
  ready();
  wait_in_place("the first");

  REQUIRE(lseek(file, 0, SEEK_CUR) == 100, "the position is %ld", lseek(file, 0, SEEK_CUR));
  REQUIRE(is_locked(file, 2), "the other has lost its lock");
  must(static_cast<int>(lseek(file, 150, SEEK_SET)), "lseek");
  const uint64_t two = 2;
  REQUIRE(write(event, &two, sizeof two) == sizeof two, "eventfd: %s", strerror(errno));
  give(there[1], 'a');
  REQUIRE(take(back[0]) == 'b', "the pipe from the other is wrong");
  REQUIRE(lseek(file, 0, SEEK_CUR) == 200, "the position is not shared: %ld", lseek(file, 0, SEEK_CUR));
  char name[32] = {};
  REQUIRE(read(status, name, sizeof name) > 0 && std::string(name) == "tree_files\n", "the file in /proc says %s", name);
  // The pidfds are of these very processes.
  REQUIRE(syscall(SYS_pidfd_send_signal, pidfd, 0, nullptr, 0) == 0, "the pidfd of the other: %s", strerror(errno));
  must(waitid(static_cast<idtype_t>(3) /* P_PIDFD */, static_cast<id_t>(ended_fd), &info, WEXITED), "the pidfd of a zombie");
  REQUIRE(info.si_pid == ended, "the pidfd of a zombie is of %d", info.si_pid);
  give(there[1], 'c');
  join(other);
  char c;
  REQUIRE(read(back[0], &c, 1) == 0, "the pipe from the other has another writer");
  return passed();
}
