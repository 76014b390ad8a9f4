// Seccomp filters, of all threads and of one: what they forbid stays forbidden, and calls that a checkpoint might want to
// make in the process are deadly here.
#include "seccomp.h"

#include <atomic>
#include <sys/prctl.h>
#include <thread>

int main(int argc, char** argv) {
  begin(argc, argv);
  // Enough for a snapshot that is taken while it runs.
  std::string memory(8 << 20, 0);
  fill(memory.data(), memory.size(), 5);
  std::atomic<bool> finish{false}, right{false};
  std::atomic<int> stage{0};
  std::thread other([&] {
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS");
    ++stage;
    wait_until([&] { return stage == 2; }, "the filter is there");
    // One of this thread alone.
    must(install(program({SYS_getpgrp}, SECCOMP_RET_ERRNO | 79), SECCOMP_FILTER_FLAG_LOG), "the third filter");
    ++stage;
    while (!finish) sleep_ns(1'000'000);
    require_forbidden(SYS_getppid, 77, "getppid in the other thread");
    require_forbidden(SYS_getpgrp, 79, "getpgrp in the other thread");
    right = true;
  });
  std::thread in_sync([&] {
    while (!finish) sleep_ns(1'000'000);
    wait_until([&] { return stage == 4; }, "the last filter is there");
    require_forbidden(SYS_getppid, 77, "getppid in the third thread");
    require_forbidden(SYS_getsid, 78, "getsid in the third thread");
  });
  wait_until([&] { return stage == 1; }, "the thread is there");
  must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS");
  must(install(program({SYS_getppid}, SECCOMP_RET_ERRNO | 77), SECCOMP_FILTER_FLAG_TSYNC), "the first filter");
  // glibc and this program do without these.
  must(install(program({SYS_userfaultfd, SYS_socketpair, SYS_sigaltstack, SYS_getitimer, SYS_timer_gettime, SYS_rt_sigaction,
                        SYS_pkey_mprotect, SYS_mlock2, SYS_personality, SYS_setresuid, SYS_capset, SYS_fcntl,
                        SYS_ioctl, SYS_keyctl, SYS_getpgid},
                       SECCOMP_RET_KILL_PROCESS),
               SECCOMP_FILTER_FLAG_TSYNC),
       "the second filter");
  ++stage;
  wait_until([&] { return stage == 3; }, "the third filter is there");
  ready();
  wait_for_go([&] { require_forbidden(SYS_getppid, 77, "getppid"); });
  require_forbidden(SYS_getppid, 77, "getppid");
  REQUIRE(getpgrp() >= 0, "the other thread's filter is in force here");
  REQUIRE(status_line("Seccomp") == "2" && status_line("Seccomp_filters") == "2", "%s, %s filters",
          status_line("Seccomp").c_str(), status_line("Seccomp_filters").c_str());
  require_filled(memory.data(), memory.size(), 5, "memory");
  finish = true;
  other.join();
  REQUIRE(right, "the other thread has not looked");
  // All in sync, as they were: one more for all of them.
  must(install(program({SYS_getsid}, SECCOMP_RET_ERRNO | 78), SECCOMP_FILTER_FLAG_TSYNC), "a filter for all afterwards");
  require_forbidden(SYS_getsid, 78, "getsid");
  ++stage;
  in_sync.join();
  return passed();
}
