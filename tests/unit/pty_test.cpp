#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <termios.h>

#include "engine/process/outlive.h"
#include "tests/unit/descriptor_fixture.h"

namespace ckpt {
namespace {

class PtyTest : public DescriptorTest {
 protected:
  struct Pair {
    int master = -1, slave = -1;
  };
  static Pair pair() {
    Pair p;
    p.master = posix_openpt(O_RDWR | O_NOCTTY);
    EXPECT_EQ(unlockpt(p.master), 0);
    p.slave = open(ptsname(p.master), O_RDWR | O_NOCTTY);
    EXPECT_GE(p.slave, 0);
    return p;
  }
  static int waiting(int fd) {
    int bytes = -1;
    ioctl(fd, FIONREAD, &bytes);
    return bytes;
  }
};

TEST_F(PtyTest, CaptureLeavesWhatWaits) {
  const Pair p = pair();
  ASSERT_EQ(write(p.slave, "output", 6), 6);
  ASSERT_EQ(write(p.master, "line\nrest", 9), 9);
  while (waiting(p.slave) < 5 || waiting(p.master) < 6 + 6 + 4) usleep(1000);
  termios before = {}, after = {};
  tcgetattr(p.slave, &before);
  for (int i = 0; i < 3; ++i) {
    image_.remove("fds/" + std::to_string(p.master));
    image_.remove("fds/" + std::to_string(p.slave));
    image_.remove("objects/pty-" + std::string(ptsname(p.master)).substr(9));
    captured_objects_.clear();
    capture({p.master, p.slave});
  }
  const std::string text = image_.content("objects/pty-" + std::string(ptsname(p.master)).substr(9));
  EXPECT_NE(text.find("\nline line\\012\nrest rest\noutput outputline\\015\\012rest\n"), std::string::npos) << text;
  tcgetattr(p.slave, &after);
  EXPECT_EQ(memcmp(&before, &after, sizeof before), 0);
  char buffer[100];
  ASSERT_EQ(write(p.master, "!\n", 2), 2);
  EXPECT_EQ(read(p.slave, buffer, sizeof buffer), 5);
  EXPECT_EQ(read(p.slave, buffer, sizeof buffer), 6);
  EXPECT_EQ(std::string(buffer, 6), "rest!\n");
  close(p.master);
  close(p.slave);
}

TEST_F(PtyTest, OneThatSomebodyElseHasIsRefused) {
  const Pair p = pair();
  for (const int side : {p.master, p.slave}) {
    const pid_t other = fork();
    if (other == 0) {
      close(side == p.master ? p.slave : p.master);
      for (;;) pause();
    }
    const std::string why = refusal({p.master, p.slave});
    EXPECT_NE(why.find("process " + std::to_string(other)), std::string::npos) << why;
    kill(other, SIGKILL);
    waitpid(other, nullptr, 0);
  }
  EXPECT_EQ(refusal({p.master, p.slave}), "");
  close(p.master);
  close(p.slave);
}

TEST_F(PtyTest, WithoutTerminalsOneOutsideIsHungUp) {
  const Pair p = pair();
  no_pgrp_ttys_ = true;
  capture({p.slave});
  close(p.slave);
  close(p.master);
  restore();
  char c = 0;
  EXPECT_EQ(read(p.slave, &c, 1), 0);
  EXPECT_EQ(write(p.slave, "x", 1), -1);
  EXPECT_EQ(errno, EIO);
  close(p.slave);
}

TEST_F(PtyTest, ANumberInUseIsReplaced) {
  const Pair p = pair();
  const std::string name = ptsname(p.master);
  capture({p.master, p.slave});
  const UniqueFd kept(fcntl(p.master, F_DUPFD_CLOEXEC, 1000));
  close(p.master);
  close(p.slave);
  restore();
  EXPECT_NE(ptsname(p.master), name);
  EXPECT_EQ(write(p.slave, "x", 1), 1);
  char c = 0;
  EXPECT_EQ(read(p.master, &c, 1), 1);
  close(p.master);
  close(p.slave);
}

TEST_F(PtyTest, ForgedOnesAreRefused) {
  const Pair p = pair();
  const std::string object = "objects/pty-" + std::string(ptsname(p.master)).substr(9);
  capture({p.master, p.slave});
  close(p.master);
  close(p.slave);
  const std::string good = image_.content(object);
  const auto refused = [&](std::string_view from, std::string_view to) {
    image_.content(object) = good;
    image_.replace(object, from, to);
    EXPECT_EQ(restore_error().err(), EINVAL) << from << " -> " << to;
  };
  refused("slave open", "slave ajar");
  refused("slave open", "slave closed");
  refused("termios ", "termios 1 ");
  refused("\ncc ", "\ncc 0");
  refused("window ", "window 70000 ");
  refused("index ", "index 99999999");
  refused("owner 0", "owner 9");
  refused("\nwindow", "\nline \nwindow");
  refused("\nwindow", "\nrest " + std::string(5000, 'x') + "\nwindow");
  refused("\nwindow", "\noutput " + std::string(5000, 'x') + "\nwindow");
  image_.content(object) = good;
  image_.replace(object, "master /dev/ptmx", "master /dev/null");
  EXPECT_EQ(restore_error().err(), ENXIO);
}

TEST(Outlive, TheWorkIsFinishedThoughItsProcessIsKilled) {
  auto* done = static_cast<volatile int*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  int started[2];
  ASSERT_EQ(pipe(started), 0);
  const pid_t child = fork();
  if (child == 0) {
    auto work = [&] {
      if (write(started[1], "x", 1) != 1) _exit(1);
      while (done[0] == 0) usleep(1000);
      done[1] = 1;
    };
    outlive(work);
    _exit(2);
  }
  char c = 0;
  ASSERT_EQ(read(started[0], &c, 1), 1);
  kill(child, SIGKILL);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  done[0] = 1;
  for (int i = 0; i < 5000 && done[1] == 0; ++i) usleep(1000);
  EXPECT_EQ(done[1], 1);
  munmap(const_cast<int*>(done), 4096);
  close(started[0]);
  close(started[1]);
}

TEST(Outlive, ChangesMemoryAndDescriptorsOfTheCaller) {
  int fd = -1;
  auto work = [&] { fd = dup(0); };
  outlive(work);
  EXPECT_GE(fd, 0);
  EXPECT_EQ(close(fd), 0);
}

}  // namespace
}  // namespace ckpt
