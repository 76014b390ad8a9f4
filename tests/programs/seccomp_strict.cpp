// A thread in strict mode: it may read, write and end.
#include "selfcheck.h"

#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <thread>

int main(int argc, char** argv) {
  begin(argc, argv);
  int question[2], answer[2];
  must(pipe(question), "pipe");
  must(pipe(answer), "pipe");
  static pid_t tid;
  std::thread confined([&] {
    tid = thread_id();
    must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT), "strict mode");
    char c;
    while (read(question[0], &c, 1) == 1) {
      ++c;
      if (write(answer[1], &c, 1) != 1) break;
    }
    syscall(SYS_exit, 0);
  });
  const auto ask = [&](char c) {
    char got = 0;
    REQUIRE(write(question[1], &c, 1) == 1 && read(answer[0], &got, 1) == 1 && got == c + 1, "the thread answers %c with %c", c, got);
  };
  ask('a');
  const auto mode = [&] { return line_value(read_text("/proc/self/task/" + std::to_string(tid) + "/status"), "Seccomp"); };
  REQUIRE(mode() == "1", "the thread is in mode %s", mode().c_str());
  ready();
  wait_for_go([&] { ask('k'); });
  ask('x');
  REQUIRE(mode() == "1", "the thread is in mode %s now", mode().c_str());
  REQUIRE(status_line("Seccomp") == "0", "the main thread is in mode %s now", status_line("Seccomp").c_str());
  close(question[1]);
  confined.join();
  return passed();
}
