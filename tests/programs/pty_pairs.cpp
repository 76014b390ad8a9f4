// Pseudo-terminals with both sides inside: settings, window, whole and unfinished lines, an end of file, raw input, output,
// packet mode, exclusive and locked ones; the slave or the master closed; the controlling terminal.
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "selfcheck.h"

namespace {

struct Pty {
  int master, slave;
};

int master_of() {
  const int fd = must(posix_openpt(O_RDWR | O_NOCTTY), "posix_openpt");
  must(unlockpt(fd), "unlockpt");
  return fd;
}

Pty make() {
  const int fd = master_of();
  return {fd, must(open(ptsname(fd), O_RDWR | O_NOCTTY | O_NONBLOCK), "the slave")};
}

void put(int fd, const std::string& text) {
  REQUIRE(write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()), "write: %s", strerror(errno));
}

std::string take(int fd, size_t room = 4096) {
  const int flags = fcntl(fd, F_GETFL);
  fcntl(fd, F_SETFL, flags | O_NONBLOCK);
  std::string text(room, 0);
  const ssize_t n = read(fd, text.data(), room);
  fcntl(fd, F_SETFL, flags);
  if (n < 0) return strerrorname_np(errno);
  text.resize(n);
  return text;
}

void require_text(int fd, const std::string& expected, const char* what) {
  const std::string got = take(fd);
  REQUIRE(got == expected, "%s: '%s', not '%s'", what, got.c_str(), expected.c_str());
}

termios settings(int fd) {
  termios t = {};
  must(tcgetattr(fd, &t), "tcgetattr");
  return t;
}

void make_raw(int fd) {
  termios t = settings(fd);
  cfmakeraw(&t);
  t.c_cc[VMIN] = 5;
  must(tcsetattr(fd, TCSANOW, &t), "tcsetattr");
}

/// Until what was written to the master has passed the line discipline.
void settle(const Pty& pty, int bytes) {
  wait_until([&] {
    int waiting = 0;
    pollfd state = {pty.slave, POLLIN, 0};
    poll(&state, 1, 0);
    ioctl(pty.slave, FIONREAD, &waiting);
    return waiting >= bytes;
  }, "the input has arrived");
}

int asked(int fd, unsigned long request) {
  int value = -1;
  must(ioctl(fd, request, &value), "ioctl");
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const Pty idle = make(), lines = make(), raw = make(), talk = make(), packets = make(), exclusive = make();
  termios set = settings(idle.slave);
  set.c_lflag &= ~static_cast<tcflag_t>(ECHO);
  set.c_iflag |= IXANY;
  set.c_cc[VINTR] = 7;
  set.c_cc[VEOL] = ';';
  cfsetspeed(&set, B9600);
  must(tcsetattr(idle.slave, TCSANOW, &set), "tcsetattr");
  set = settings(idle.slave);
  const winsize window = {33, 99, 5, 6};
  must(ioctl(idle.master, TIOCSWINSZ, &window), "TIOCSWINSZ");
  must(fchmod(idle.slave, 0600), "fchmod");

  termios with_end = settings(lines.slave);
  with_end.c_cc[VEOL] = ';';
  must(tcsetattr(lines.slave, TCSANOW, &with_end), "tcsetattr");
  put(lines.master, "first line\nsecond;no newline\x04unfinished");
  settle(lines, 27);
  wait_until([&] { return asked(lines.master, FIONREAD) == 39; }, "the echo has come");
  const std::string echo = take(lines.master);
  make_raw(raw.slave);
  put(raw.master, "raw \x03\x04\x11 bytes\n");
  settle(raw, 14);
  put(talk.slave, "hello\nworld");
  wait_until([&] { return asked(talk.master, FIONREAD) == 12; }, "the output has come");
  must(ioctl(packets.master, TIOCPKT, &(const int&)int{1}), "TIOCPKT");
  put(packets.slave, "in a packet");
  wait_until([&] { return asked(packets.master, FIONREAD) == 11; }, "the output has come");
  must(ioctl(exclusive.slave, TIOCEXCL), "TIOCEXCL");
  const int locked = must(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), "posix_openpt");
  const Pty left = make(), orphan = make();
  put(left.slave, "goodbye");
  close(left.slave);
  close(orphan.master);
  const int copy = must(open(ptsname(talk.master), O_WRONLY | O_NOCTTY), "the slave again");
  must(ioctl(talk.slave, TIOCSCTTY, 0), "TIOCSCTTY");
  const int alias = must(open("/dev/tty", O_RDWR | O_NONBLOCK), "/dev/tty");
  const std::string name = ptsname(idle.master);
  ready();
  wait_for_go();

  REQUIRE(ptsname(idle.master) == name && ttyname(idle.slave) == name, "the slave is called %s, not %s", ttyname(idle.slave),
          name.c_str());
  const termios now = settings(idle.slave);
  REQUIRE(memcmp(&now, &set, sizeof now) == 0, "the settings have changed");
  winsize size = {};
  must(ioctl(idle.slave, TIOCGWINSZ, &size), "TIOCGWINSZ");
  REQUIRE(memcmp(&size, &window, sizeof size) == 0, "the window is %d x %d", size.ws_row, size.ws_col);
  struct stat st = {};
  must(fstat(idle.slave, &st), "fstat");
  REQUIRE((st.st_mode & 07777) == 0600, "mode %o", st.st_mode);
  put(idle.master, "a line\n");
  settle(idle, 7);
  require_text(idle.slave, "a line\n", "idle");
  require_text(idle.master, "EAGAIN", "idle, without echo");

  require_text(lines.slave, "first line\n", "lines");
  require_text(lines.slave, "second;", "lines, ended by VEOL");
  require_text(lines.slave, "no newline", "lines, ended by VEOF");
  require_text(lines.slave, "EAGAIN", "lines, not ended");
  put(lines.master, "\x7f\x7f, now\n");
  settle(lines, 14);
  require_text(lines.slave, "unfinish, now\n", "lines, edited and ended");
  REQUIRE(!echo.empty() && take(lines.master) != "EAGAIN", "there is no echo any more");
  require_text(raw.slave, "raw \x03\x04\x11 bytes\n", "raw");
  REQUIRE(settings(raw.slave).c_cc[VMIN] == 5, "VMIN is lost");
  require_text(talk.master, "hello\r\nworld", "output");
  put(copy, "more");
  wait_until([&] { return asked(talk.master, FIONREAD) == 4; }, "the output has come");
  require_text(talk.master, "more", "output, more");
  REQUIRE(asked(packets.master, TIOCGPKT) == 1, "packet mode is lost");
  require_text(packets.master, std::string(1, 0) + "in a packet", "packet");
  REQUIRE(asked(exclusive.slave, TIOCGEXCL) == 1, "it is not exclusive any more");
  REQUIRE(asked(locked, TIOCGPTLCK) == 1 && fcntl(locked, F_GETFD) == FD_CLOEXEC, "it is not locked any more");
  require_text(left.master, "goodbye", "left");
  require_text(left.master, "EIO", "left, at the end");
  require_text(orphan.slave, "", "orphan");
  REQUIRE(write(orphan.slave, "x", 1) == -1 && errno == EIO, "the orphan has a master");

  REQUIRE(tcgetsid(talk.slave) == getpid() && tcgetpgrp(talk.slave) == getpgrp(), "the session's terminal: %d %d",
          tcgetsid(talk.slave), tcgetpgrp(talk.slave));
  put(alias, "through /dev/tty");
  wait_until([&] { return asked(talk.master, FIONREAD) == 16; }, "the output has come");
  require_text(talk.master, "through /dev/tty", "/dev/tty");
  const int again = must(open("/dev/tty", O_RDWR), "/dev/tty");
  REQUIRE(tcgetsid(again) == getpid(), "/dev/tty is another");
  return passed();
}
