// select and pselect.
#include "underway.h"

#include <sys/select.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  int wake[2];
  must(pipe(wake), "pipe");
  UnderWay plain(SYS_select, [&] {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(wake[0], &set);
    timeval limit = {1000, 0};
    const long n = syscall(SYS_select, wake[0] + 1, &set, nullptr, nullptr, &limit);
    REQUIRE(n == 1 && FD_ISSET(wake[0], &set), "select gives %ld: %s", n, strerror(errno));
  });
  UnderWay with_mask(SYS_pselect6, [&] {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(wake[0], &set);
    sigset_t mask;
    sigfillset(&mask);
    const int n = pselect(wake[0] + 1, &set, nullptr, nullptr, nullptr, &mask);
    REQUIRE(n == 1 && FD_ISSET(wake[0], &set), "pselect gives %d: %s", n, strerror(errno));
    sigprocmask(SIG_BLOCK, nullptr, &mask);
    REQUIRE(!sigismember(&mask, SIGUSR1), "pselect does not put the mask back");
  });
  ready();
  wait_for_go([&] { plain.require_inside("select"); });
  plain.wait_inside();
  with_mask.wait_inside();
  plain.require_inside("select");
  with_mask.require_inside("pselect");
  REQUIRE(write(wake[1], "x", 1) == 1, "write: %s", strerror(errno));
  plain.join();
  with_mask.join();
  return passed();
}
