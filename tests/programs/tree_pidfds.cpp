// pidfds: of parent, child and sibling, of a thread, of one that has been waited for, and of processes outside the tree: one
// that runs on, and one that has ended before the resume.
#include <poll.h>

#include <atomic>
#include <thread>

#include "family.h"

namespace {

constexpr unsigned kPidfdThread = O_EXCL;

int pidfd_of(pid_t pid, unsigned flags = 0) { return static_cast<int>(syscall(SYS_pidfd_open, pid, flags)); }

bool has_ended(int pidfd) {
  pollfd poll_fd = {pidfd, POLLIN, 0};
  return must(poll(&poll_fd, 1, 0), "poll") == 1;
}

std::string pid_in(int pidfd) { return line_value(read_text("/proc/self/fdinfo/" + std::to_string(pidfd)), "Pid"); }

void require_of(int pidfd, pid_t pid, const char* who) {
  REQUIRE(pid_in(pidfd) == std::to_string(pid), "the pidfd of %s says %s, not %d", who, pid_in(pidfd).c_str(), pid);
}

/// A process that is nobody's child but init's, and runs until DIR/gone is there (or the directory has gone).
pid_t start_outsider() {
  int ends[2];
  must(pipe2(ends, O_CLOEXEC), "pipe2");
  join(child([&] {
    if (must(fork(), "fork") != 0) return;
    setsid();
    const pid_t self = getpid();
    if (write(ends[1], &self, sizeof self) != sizeof self) _exit(1);
    close_range(0, ~0u, 0);
    while (access(path("gone").c_str(), F_OK) != 0 && access(directory.c_str(), F_OK) == 0) sleep_ns(5'000'000);
    _exit(0);
  }));
  pid_t pid = 0;
  REQUIRE(read(ends[0], &pid, sizeof pid) == sizeof pid, "the outsider has not come up");
  close(ends[0]);
  close(ends[1]);
  return pid;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  Roll roll;
  const pid_t first = getpid(), runner = getppid(), outsider = start_outsider();
  const int runner_fd = must(pidfd_of(runner), "pidfd_open"), outsider_fd = must(pidfd_of(outsider), "pidfd_open");
  const pid_t ended = child([] { _exit(7); });
  const int ended_fd = must(pidfd_of(ended, O_NONBLOCK), "pidfd_open");
  must(waitpid(ended, nullptr, 0), "waitpid");
  const int first_fd = must(pidfd_of(first), "pidfd_open");
  const pid_t sibling = child([&] {
    roll.here();
    wait_in_place("the sibling");
    require_of(first_fd, first, "the first, inherited");
  });
  const int sibling_fd = must(pidfd_of(sibling), "pidfd_open");
  const pid_t other = child([&] {
    const int parent = must(pidfd_of(first), "pidfd_open"), again = must(dup(sibling_fd), "dup");
    roll.here();
    wait_in_place("the other");
    require_of(parent, first, "the parent");
    require_of(again, sibling, "the sibling");
    REQUIRE(pid_in(ended_fd) == "-1" && has_ended(ended_fd), "the inherited pidfd of an ended one says %s",
            pid_in(ended_fd).c_str());
  });
  std::atomic<pid_t> tid = 0;
  std::atomic<bool> end = false;
  std::thread thread([&] {
    tid = thread_id();
    end.wait(false);
  });
  wait_until([&] { return tid != 0; }, "the thread runs");
  const int thread_fd = pidfd_of(tid, kPidfdThread);  // Linux 6.9
  REQUIRE(thread_fd >= 0 || errno == EINVAL, "pidfd_open of a thread: %s", strerror(errno));
  roll.wait_for(2);
  const std::string proc = "/proc/" + std::to_string(outsider) + "/stat";
  const std::string between = "touch gone\nwhile [ -e " + proc + " ] && ! grep -q ') Z' " + proc + "; do sleep 0.01; done\n";
  write_file("between", between.data(), between.size());
  ready();
  wait_in_place("the first");

  require_of(first_fd, first, "itself");
  require_of(sibling_fd, sibling, "the sibling");
  REQUIRE(pid_in(ended_fd) == "-1" && has_ended(ended_fd), "the pidfd of an ended one says %s", pid_in(ended_fd).c_str());
  REQUIRE((fcntl(ended_fd, F_GETFL) & O_NONBLOCK) != 0 && fcntl(ended_fd, F_GETFD) == FD_CLOEXEC, "its flags are lost");
  REQUIRE(syscall(SYS_pidfd_send_signal, ended_fd, 0, nullptr, 0) == -1 && errno == ESRCH, "an ended one takes a signal");
  require_of(runner_fd, runner, "the runner");
  REQUIRE(!has_ended(runner_fd), "the runner has ended");
  REQUIRE(has_ended(outsider_fd), "the outsider has not ended");
  if (thread_fd >= 0) {
    require_of(thread_fd, tid, "the thread");
    REQUIRE(syscall(SYS_pidfd_send_signal, thread_fd, 0, nullptr, 0) == 0, "the thread: %s", strerror(errno));
  }
  end = true;
  end.notify_all();
  thread.join();
  if (thread_fd >= 0) wait_until([&] { return has_ended(thread_fd); }, "the pidfd of the thread tells of its end");
  join(other);  // who looks at the sibling as well, that may have ended but is not waited for
  join(sibling);
  REQUIRE(has_ended(sibling_fd), "the pidfd of the sibling does not tell of its end");
  return passed();
}
