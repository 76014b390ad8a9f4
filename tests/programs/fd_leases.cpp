// Leases, F_SETLEASE: of a file open for reading and of one open for writing, with the signal that tells of their end; held
// through a description that a child has too.
#include "family.h"

namespace {

volatile sig_atomic_t told_fd = -1;

void on_break(int, siginfo_t* info, void*) { told_fd = info->si_fd; }

int leased(const std::string& file, int flags, int lease, int sig) {
  const int fd = must(open(file.c_str(), flags | O_CLOEXEC), "open");
  must(fcntl(fd, F_SETSIG, sig), "F_SETSIG");
  // EAGAIN while somebody looks at the file, by /proc/PID/fd for instance.
  wait_until([&] { return fcntl(fd, F_SETLEASE, lease) == 0 || errno != EAGAIN; }, "nobody else has the file");
  REQUIRE(fcntl(fd, F_GETLEASE) == lease, "F_SETLEASE: the lease is %d", fcntl(fd, F_GETLEASE));
  return fd;
}

/// Another opens the file, is told to wait, and the holder hears of it.
void require_broken(const std::string& file, int flags, int fd) {
  told_fd = -1;
  const int other = open(file.c_str(), flags | O_NONBLOCK | O_CLOEXEC);
  REQUIRE(other == -1 && errno == EWOULDBLOCK, "%s: it can be opened against the lease", file.c_str());
  wait_until([&] { return told_fd == fd; }, "the holder of a lease is told");
  must(fcntl(fd, F_SETLEASE, F_UNLCK), "F_UNLCK");
  close(must(open(file.c_str(), flags | O_NONBLOCK | O_CLOEXEC), "opening what is not leased any more"));
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  struct sigaction action = {};
  action.sa_sigaction = on_break;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  const int sig = SIGRTMIN + 3;
  must(sigaction(sig, &action, nullptr), "sigaction");
  const std::string read = make_file("read", 100, 1), write = make_file("write", 100, 2), shared = make_file("shared", 9, 3);
  const int reader = leased(read, O_RDONLY, F_RDLCK, sig), writer = leased(write, O_RDWR, F_WRLCK, sig);
  const int common = leased(shared, O_RDONLY, F_RDLCK, sig);
  Roll roll;
  const pid_t other = child([&] {
    close(reader);
    close(writer);
    roll.here();
    wait_in_place("the other");
    REQUIRE(fcntl(common, F_GETLEASE) == F_RDLCK, "the lease of the common description is lost");
  });
  roll.wait_for(1);
  ready();
  wait_in_place("the first");
  REQUIRE(fcntl(reader, F_GETLEASE) == F_RDLCK, "the lease to read is %d", fcntl(reader, F_GETLEASE));
  REQUIRE(fcntl(writer, F_GETLEASE) == F_WRLCK, "the lease to write is %d", fcntl(writer, F_GETLEASE));
  REQUIRE(fcntl(reader, F_GETSIG) == sig, "the signal is %d", fcntl(reader, F_GETSIG));
  REQUIRE(told_fd == -1, "a lease was broken");
  join(other);
  require_broken(read, O_WRONLY, reader);
  require_broken(write, O_RDONLY, writer);
  require_broken(shared, O_RDWR, common);
  return passed();
}
