#include <mqueue.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <signal.h>
#include <stdlib.h>

#include "engine/kinds/eventfd.h"
#include "tests/unit/descriptor_fixture.h"

namespace ckpt {
namespace {

/// fdinfo without the lines that belong to the kernel's object rather than to its state.
std::string state(const std::string& fdinfo) {
  std::string out;
  size_t at = 0;
  while (at < fdinfo.size()) {
    const size_t end = std::min(fdinfo.find('\n', at), fdinfo.size() - 1);
    const std::string line = fdinfo.substr(at, end + 1 - at);
    at = end + 1;
    if (!line.starts_with("eventfd-id") && !line.starts_with("it_value") && !line.starts_with("ino:")) out += line;
  }
  return out;
}

TEST_F(DescriptorTest, EventfdsCountOn) {
  const int a = eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK), b = eventfd(0, EFD_CLOEXEC), c = eventfd(0, 0);
  const uint64_t large = 0xfffffffffffffffe, five = 5;
  ASSERT_EQ(write(a, &five, 8), 8);
  ASSERT_EQ(write(b, &large, 8), 8);
  const std::string before = state(fdinfo(a) + fdinfo(b) + fdinfo(c));
  round_trip({a, b, c});
  EXPECT_EQ(state(fdinfo(a) + fdinfo(b) + fdinfo(c)), before);
  for (const int fd : {a, b, c}) close(fd);
}

TEST_F(DescriptorTest, ASemaphoreIsToldFromACounterWithoutFdinfo) {
  for (const int flags : {0, int{EFD_SEMAPHORE}}) {
    for (const uint64_t count : {0u, 1u, 2u, 3u, 100u}) {
      const int fd = eventfd(static_cast<unsigned>(count), flags);
      const std::string before = fdinfo(fd);
      EXPECT_EQ(probe_semaphore(fd, count), flags == EFD_SEMAPHORE) << count;
      EXPECT_EQ(fdinfo(fd), before) << count;
      close(fd);
    }
  }
}

TEST_F(DescriptorTest, AnotherHolderOfAnEventfdIsFound) {
  const int fd = eventfd(0, EFD_CLOEXEC);
  const std::string text = fdinfo(fd);
  const size_t at = text.find("eventfd-id: ") + 12;
  const std::string id = text.substr(at, text.find('\n', at) - at);
  EXPECT_EQ(running_holder(getpid(), id), 0);
  const pid_t child = fork();
  if (child == 0) {
    pause();
    _exit(0);
  }
  EXPECT_EQ(running_holder(getpid(), id), child);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_EQ(running_holder(getpid(), id), 0);
  close(fd);
}

TEST_F(DescriptorTest, UnixSocketsOnTheirOwnComeBack) {
  const int fresh = socket(AF_UNIX, SOCK_DGRAM, 0);
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
  close(pair[1]);
  const int flags = fcntl(pair[0], F_GETFL);
  round_trip({fresh, pair[0]});
  EXPECT_EQ(fcntl(pair[0], F_GETFL), flags);
  char byte = 0;
  EXPECT_EQ(recv(pair[0], &byte, 1, 0), 0);
  EXPECT_EQ(send(pair[0], &byte, 1, MSG_NOSIGNAL), -1);
  EXPECT_EQ(errno, EPIPE);
  EXPECT_EQ(send(fresh, &byte, 1, MSG_NOSIGNAL), -1);
  EXPECT_EQ(errno, ENOTCONN);
  close(fresh);
  close(pair[0]);
}

TEST_F(DescriptorTest, TimersKeepTheTimeLeft) {
  const int relative = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  const int absolute = timerfd_create(CLOCK_REALTIME, 0);
  const int fired = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  const int disarmed = timerfd_create(CLOCK_BOOTTIME, 0);
  itimerspec its = {{2, 0}, {1000, 500}};
  ASSERT_EQ(timerfd_settime(relative, 0, &its, nullptr), 0);
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  its = {{0, 0}, {now.tv_sec + 5000, 0}};
  ASSERT_EQ(timerfd_settime(absolute, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &its, nullptr), 0);
  its = {{3600, 0}, {0, 1}};
  ASSERT_EQ(timerfd_settime(fired, 0, &its, nullptr), 0);
  struct pollfd p = {fired, POLLIN, 0};
  ASSERT_EQ(poll(&p, 1, 10'000), 1);
  capture({relative, absolute, fired, disarmed});
  const std::string before = state(fdinfo(relative) + fdinfo(absolute) + fdinfo(disarmed));
  for (const int fd : {relative, absolute, fired, disarmed}) close(fd);
  restore();
  EXPECT_EQ(state(fdinfo(relative) + fdinfo(absolute) + fdinfo(disarmed)), before);
  itimerspec left = {};
  timerfd_gettime(relative, &left);
  EXPECT_TRUE(left.it_value.tv_sec == 999 || left.it_value.tv_sec == 1000) << left.it_value.tv_sec;
  EXPECT_EQ(left.it_interval.tv_sec, 2);
  timerfd_gettime(absolute, &left);
  EXPECT_LE(left.it_value.tv_sec, 5000);
  EXPECT_GE(left.it_value.tv_sec, 4990);
  timerfd_gettime(disarmed, &left);
  EXPECT_EQ(left.it_value.tv_sec, 0);
  uint64_t ticks = 0;
  EXPECT_EQ(read(fired, &ticks, 8), 8);
  EXPECT_EQ(ticks, 1u);
  timerfd_gettime(fired, &left);
  EXPECT_GT(left.it_value.tv_sec, 3500) << "the next period runs";
  for (const int fd : {relative, absolute, fired, disarmed}) close(fd);
}

TEST_F(DescriptorTest, SignalfdsKeepTheirMask) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGRTMAX);
  const int fd = signalfd(-1, &set, SFD_NONBLOCK);
  const std::string before = state(fdinfo(fd));
  round_trip({fd});
  EXPECT_EQ(state(fdinfo(fd)), before);
  close(fd);
}

TEST_F(DescriptorTest, EpollWatchesTheSameFilesAgain) {
  int p[2];
  ASSERT_EQ(pipe(p), 0);
  const int event = eventfd(1, 0), inner = epoll_create1(0), outer = epoll_create1(EPOLL_CLOEXEC);
  const auto add = [](int epfd, int fd, uint32_t events, uint64_t data) {
    epoll_event e = {};
    e.events = events;
    e.data.u64 = data;
    ASSERT_EQ(epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &e), 0);
  };
  add(outer, p[0], EPOLLIN | EPOLLET, 0xdeadbeef00000001);
  add(outer, inner, EPOLLIN, 2);
  add(inner, event, EPOLLIN, 3);
  add(inner, p[1], EPOLLOUT | EPOLLONESHOT, 4);
  const auto watches = [&] {
    std::set<std::string> lines;  // the kernel's order is that of addresses
    for (const int fd : {inner, outer}) {
      OpenFd open_fd;
      open_fd.fdinfo = fdinfo(fd);
      for (std::string& line : open_fd.info_lines("tfd")) {
        auto words = split_words(line);
        words.resize(5);
        lines.insert(fmt::format("{}: {}", fd, fmt::join(words, " ")));
      }
    }
    return lines;
  };
  const auto before = watches();
  EXPECT_EQ(before.size(), 4u);
  round_trip({p[0], p[1], event, inner, outer});
  EXPECT_EQ(watches(), before);
  epoll_event got[4];
  ASSERT_EQ(epoll_wait(outer, got, 4, 0), 1);
  EXPECT_EQ(got[0].data.u64, 2u);
  ASSERT_EQ(epoll_wait(inner, got, 4, 0), 2);
  for (const int fd : {p[0], p[1], event, inner, outer}) close(fd);
}

TEST_F(DescriptorTest, AnEpollOfAClosedDescriptorIsRefused) {
  const int event = eventfd(0, 0), twin = dup(event), epfd = epoll_create1(0);
  epoll_event e = {};
  e.events = EPOLLIN;
  ASSERT_EQ(epoll_ctl(epfd, EPOLL_CTL_ADD, event, &e), 0);
  EXPECT_EQ(refusal({twin, event, epfd}), "");
  close(event);
  EXPECT_NE(refusal({twin, epfd}).find(fmt::format("whose descriptor ({}) was closed", event)), std::string::npos);
  const int other = eventfd(0, 0);  // takes the number
  ASSERT_EQ(other, event);
  EXPECT_NE(refusal({twin, other, epfd}), "");
  for (const int fd : {twin, other, epfd}) close(fd);
}

TEST_F(DescriptorTest, InotifyKeepsItsWatchNumbers) {
  if (geteuid() != 0) GTEST_SKIP() << "the paths of inodes are found by root only";
  write_file("a b", "x");
  write_file("c", "x");
  ASSERT_EQ(mkdir(path("d").c_str(), 0700), 0);
  const int fd = inotify_init1(IN_NONBLOCK);
  const int first = inotify_add_watch(fd, path("a b").c_str(), IN_MODIFY);
  const int second = inotify_add_watch(fd, path("c").c_str(), IN_ALL_EVENTS);
  ASSERT_EQ(inotify_rm_watch(fd, first), 0);
  const int third = inotify_add_watch(fd, path("a b").c_str(), IN_ATTRIB | IN_ONESHOT);
  const int fourth = inotify_add_watch(fd, path("d").c_str(), IN_CREATE | IN_EXCL_UNLINK);
  EXPECT_NE(refusal({fd}).find("events that have not been read"), std::string::npos) << refusal({fd});
  char buffer[4096];
  while (read(fd, buffer, sizeof buffer) > 0) {
  }
  const std::string before = fdinfo(fd);
  capture({fd});
  EXPECT_NE(record(fd).find(fmt::format("watch {} ", second)), std::string::npos) << record(fd);
  EXPECT_NE(record(fd).find(path("a b")), std::string::npos);
  close(fd);
  restore();
  EXPECT_EQ(fdinfo(fd), before);
  int waiting = -1;
  ASSERT_EQ(ioctl(fd, FIONREAD, &waiting), 0);
  EXPECT_EQ(waiting, 0) << "no event of the restore itself";
  write_file("d/new", "");
  ASSERT_GT(read(fd, buffer, sizeof buffer), 0);
  EXPECT_EQ(reinterpret_cast<inotify_event*>(buffer)->wd, fourth);
  EXPECT_EQ(third, 3);
  close(fd);
}

TEST_F(DescriptorTest, OPathDescriptors) {
  write_file("data", "x");
  ASSERT_EQ(symlink("nowhere", path("link").c_str()), 0);
  const int file = open(path("data").c_str(), O_PATH), dir = open(dir_.c_str(), O_PATH | O_DIRECTORY);
  const int link = open(path("link").c_str(), O_PATH | O_NOFOLLOW);
  const std::string before = fdinfo(file) + fdinfo(dir) + fdinfo(link);
  round_trip({file, dir, link});
  EXPECT_EQ(fdinfo(file) + fdinfo(dir) + fdinfo(link), before);
  for (const int fd : {file, dir, link}) close(fd);
}

TEST_F(DescriptorTest, DescriptorsOfTheProcessItself) {
  const int maps = open("/proc/self/maps", O_RDONLY), twin = dup(maps);
  const int self = static_cast<int>(::syscall(SYS_pidfd_open, getpid(), 0));
  const int epfd = epoll_create1(0);
  epoll_event e = {};
  e.events = EPOLLIN;
  ASSERT_EQ(epoll_ctl(epfd, EPOLL_CTL_ADD, self, &e), 0);
  char c[10];
  ASSERT_EQ(read(maps, c, 10), 10);
  round_trip({maps, twin, self, epfd});
  EXPECT_EQ(read_link(AT_FDCWD, fmt::format("/proc/self/fd/{}", maps)), fmt::format("/proc/{}/maps", getpid()));
  EXPECT_EQ(lseek(twin, 0, SEEK_CUR), 10);
  EXPECT_NE(fdinfo(self).find(fmt::format("Pid:\t{}\n", getpid())), std::string::npos);
  EXPECT_EQ(fcntl(self, F_GETFD), FD_CLOEXEC);
  for (const int fd : {maps, twin, self, epfd}) close(fd);
  const int writable = open("/proc/self/comm", O_RDWR), other = open("/proc/1/status", O_RDONLY);
  EXPECT_NE(refusal({writable}).find("for writing"), std::string::npos) << refusal({writable});
  EXPECT_NE(refusal({other}).find("another process"), std::string::npos) << refusal({other});
  close(writable);
  close(other);
}

TEST_F(DescriptorTest, MessageQueuesThatNotifyOrHaveNoNameAreRefused) {
  const std::string name = fmt::format("/ckptfs-unit-{}", getpid());
  mq_attr attr = {};
  attr.mq_maxmsg = 2;
  attr.mq_msgsize = 16;
  const mqd_t queue = mq_open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600, &attr);
  ASSERT_GE(queue, 0);
  EXPECT_EQ(refusal({queue}), "");
  sigevent event = {};
  event.sigev_notify = SIGEV_NONE;
  EXPECT_EQ(mq_notify(queue, &event), 0);
  EXPECT_NE(refusal({queue}).find("to tell process"), std::string::npos) << refusal({queue});
  EXPECT_EQ(mq_notify(queue, nullptr), 0);
  EXPECT_EQ(mq_unlink(name.c_str()), 0);
  EXPECT_NE(refusal({queue}).find("without a name"), std::string::npos) << refusal({queue});
  close(queue);
}

TEST_F(DescriptorTest, FifosKeepContentAndNeverBlock) {
  ASSERT_EQ(mkfifo(path("fifo").c_str(), 0600), 0);
  const int reader = open(path("fifo").c_str(), O_RDONLY | O_NONBLOCK);
  // No writer has come yet: poll must not say POLLHUP afterwards either.
  struct pollfd p = {reader, POLLIN, 0};
  ASSERT_EQ(poll(&p, 1, 0), 0);
  capture({reader});
  close(reader);
  restore();
  EXPECT_EQ(poll(&p, 1, 0), 0);
  EXPECT_EQ(fcntl(reader, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
  const int writer = open(path("fifo").c_str(), O_WRONLY);
  EXPECT_NE(refusal({reader}).find("whose other end is outside"), std::string::npos);
  write_all(writer, "hello", "fifo");
  image_.remove(fmt::format("fds/{}", reader));
  for (const auto& entry : std::vector(image_.entries())) image_.remove(entry.path);
  captured_objects_.clear();
  round_trip({reader, writer});
  char buffer[16];
  EXPECT_EQ(read(reader, buffer, sizeof buffer), 5);
  EXPECT_EQ(fcntl(writer, F_GETFL) & O_NONBLOCK, 0);
  close(writer);
  EXPECT_EQ(poll(&p, 1, 0), 1);
  EXPECT_NE(p.revents & POLLHUP, 0);
  close(reader);
}

TEST_F(DescriptorTest, AFifoIsLeftAloneWhileSomebodyElseHasThePid) {
  ASSERT_EQ(mkfifo(path("fifo").c_str(), 0600), 0);
  const int reader = open(path("fifo").c_str(), O_RDONLY | O_NONBLOCK);
  const int writer = open(path("fifo").c_str(), O_WRONLY);
  write_all(writer, "old", "fifo");
  capture({reader, writer});
  char buffer[16];
  EXPECT_EQ(read(reader, buffer, sizeof buffer), 3);
  close(writer);
  RestoredFds fds = restore_descriptors(restore_context(), {});
  // Neither the old content nor a writer has come.
  EXPECT_EQ(read(reader, buffer, sizeof buffer), 0);
  close(reader);
  complete_descriptors(restore_context(), fds, remote_);
  EXPECT_EQ(read(fds.files[static_cast<size_t>(fds.find(reader)->file)].get(), buffer, sizeof buffer), 3);
  restored_objects_.clear();
}

TEST_F(DescriptorTest, ATerminalIsOpenedAgainWhileItIsThere) {
  const UniqueFd master(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  ASSERT_TRUE(master);
  ASSERT_EQ(grantpt(master.get()), 0);
  ASSERT_EQ(unlockpt(master.get()), 0);
  char name[64];
  ASSERT_EQ(ptsname_r(master.get(), name, sizeof name), 0);
  const int fd = open(name, O_RDWR | O_NOCTTY);
  capture({fd});
  EXPECT_NE(record(fd).find("type tty"), std::string::npos) << record(fd);
  close(fd);
  restore();
  EXPECT_EQ(isatty(fd), 1);
  EXPECT_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
  close(fd);
  image_.replace(fmt::format("fds/{}", fd), "rdev 136:", "rdev 137:");
  const Error e = restore_error();
  EXPECT_EQ(e.err(), ENXIO);
  EXPECT_NE(e.sentence().find("ckpt restore -f"), std::string::npos) << e.sentence();
}

}  // namespace
}  // namespace ckpt
