// A terminal between two processes, as under script(1): the first has the master, a shell the slave, which is its
// controlling terminal, with a job in the foreground and one in the background. A second shell has no descriptor of its
// terminal but in its job.
#include <sys/ioctl.h>
#include <termios.h>

#include "family.h"

namespace {

struct Terminal {
  int master = -1, slave = -1;
};

Terminal make() {
  Terminal t;
  t.master = must(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), "posix_openpt");
  must(unlockpt(t.master), "unlockpt");
  t.slave = must(open(ptsname(t.master), O_RDWR | O_NOCTTY), "the slave");
  return t;
}

volatile sig_atomic_t interrupted, resized;

void catch_signals() {
  struct sigaction action = {};
  action.sa_handler = [](int signo) { (signo == SIGINT ? interrupted : resized) = 1; };
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGWINCH, &action, nullptr);
}

void lead(const Terminal& t) {
  must(setsid(), "setsid");
  must(ioctl(t.slave, TIOCSCTTY, 0), "TIOCSCTTY");
  close(t.master);
}

/// Whoever is in a session of that terminal opens it by /dev/tty.
void require_terminal(pid_t session, pid_t foreground, const char* who) {
  const int fd = must(open("/dev/tty", O_RDWR | O_CLOEXEC), who);
  REQUIRE(tcgetsid(fd) == session, "%s: session %d, not %d", who, tcgetsid(fd), session);
  REQUIRE(tcgetpgrp(fd) == foreground, "%s: foreground %d, not %d", who, tcgetpgrp(fd), foreground);
  close(fd);
}

void shell(const Terminal& t, Roll& roll) {
  lead(t);
  for (int fd = 0; fd < 3; ++fd) must(dup2(t.slave, fd), "dup2");
  close(t.slave);
  const pid_t own = getpid();
  const auto job = [&](bool front) {
    return child([&, front] {
      catch_signals();
      must(setpgid(0, 0), "setpgid");
      if (front) {
        sigset_t stop;
        sigemptyset(&stop);
        sigaddset(&stop, SIGTTOU);
        sigprocmask(SIG_BLOCK, &stop, nullptr);
        must(tcsetpgrp(0, getpid()), "tcsetpgrp");
      }
      const int alias = must(open("/dev/tty", O_RDWR), "/dev/tty");
      roll.here();
      wait_in_place(front ? "the job in the foreground" : "the job in the background");
      const pid_t group = tcgetpgrp(0);
      REQUIRE((group == getpid()) == front, "the foreground is %d", group);
      require_terminal(own, group, "a job");
      if (!front) {
        wait_until([] { return access(path("front").c_str(), F_OK) == 0; }, "the job in the foreground has ended");
        REQUIRE(!interrupted && !resized, "signals of the terminal come to the background");
        return;
      }
      REQUIRE(write(alias, "!", 1) == 1, "/dev/tty: %s", strerror(errno));
      wait_until([] { return interrupted && resized; }, "the foreground gets the signals of the terminal");
      char line[20];
      const ssize_t n = read(0, line, sizeof line);
      REQUIRE(n == 9 && memcmp(line, "the line\n", 9) == 0, "%zd bytes: %s", n, n < 0 ? strerror(errno) : line);
    });
  };
  const pid_t front = job(true), back = job(false);
  wait_until([=] { return tcgetpgrp(0) == front && getpgid(back) == back; }, "the jobs are in their groups");
  roll.here();
  wait_in_place("the shell");
  require_terminal(own, front, "the shell");
  join(front);
  write_file("front", "", 0);
  join(back);
}

void bare_shell(const Terminal& t, Roll& roll) {
  lead(t);
  const pid_t own = getpid();
  const pid_t job = child([&] {
    roll.here();
    wait_in_place("the job of the second shell");
    require_terminal(own, own, "the job of the second shell");
    REQUIRE(write(t.slave, "job", 3) == 3, "the job: %s", strerror(errno));
  });
  close(t.slave);
  roll.here();
  wait_in_place("the second shell");
  require_terminal(own, own, "the second shell");
  join(job);
}

void require_answer(int master, const std::string& expected, const char* what) {
  std::string got;
  char buffer[200];
  while (got.size() < expected.size()) {
    const ssize_t n = read(master, buffer, sizeof buffer);
    REQUIRE(n > 0, "%s: %s", what, strerror(errno));
    got.append(buffer, static_cast<size_t>(n));
  }
  REQUIRE(got == expected, "%s: '%s'", what, got.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  Roll roll;
  const Terminal shared = make(), bare = make();
  const std::string name = ptsname(shared.master);
  const pid_t first = child([&] { shell(shared, roll); });
  const pid_t second = child([&] { bare_shell(bare, roll); });
  close(bare.slave);
  roll.wait_for(5);
  ready();
  wait_in_place("the first");

  REQUIRE(ptsname(shared.master) == name && ttyname(shared.slave) == name, "the slave is called %s, not %s",
          ttyname(shared.slave), name.c_str());
  const winsize window = {10, 20, 0, 0};
  must(ioctl(shared.master, TIOCSWINSZ, &window), "TIOCSWINSZ");
  require_answer(shared.master, "!", "the foreground job");
  REQUIRE(write(shared.master, "\x03", 1) == 1, "interrupt: %s", strerror(errno));
  require_answer(shared.master, "^C", "the echo of an interrupt");
  REQUIRE(write(shared.master, "the line\n", 9) == 9, "a line: %s", strerror(errno));
  require_answer(shared.master, "the line\r\n", "the echo of a line");
  require_answer(bare.master, "job", "the second shell's job");
  join(first);
  join(second);
  close(shared.slave);
  char c;
  REQUIRE(read(shared.master, &c, 1) == -1 && errno == EIO, "somebody still has the slave");
  return passed();
}
