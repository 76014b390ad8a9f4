// Seccomp in a family: filters that a child has from its parent, its own on top of them, and a child in strict mode, which
// cannot even tell that it is there.
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include "family.h"
#include "seccomp.h"

namespace {

void confine(long nr, uint32_t error) {
  must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS");
  must(install(program({nr}, SECCOMP_RET_ERRNO | error), 0), "a filter");
}

void require_filters(const char* expected, const char* who) {
  REQUIRE(status_line("Seccomp_filters") == expected, "%s: %s filters, not %s", who, status_line("Seccomp_filters").c_str(),
          expected);
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  Roll roll;
  int question[2], answer[2];
  must(pipe(question), "pipe");
  must(pipe(answer), "pipe");
  const pid_t strict = child([&] {
    close(question[1]);
    must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT), "strict mode");
    char c;
    while (read(question[0], &c, 1) == 1) {
      ++c;
      if (write(answer[1], &c, 1) != 1) break;
    }
    syscall(SYS_exit, 0);
  });
  close(question[0]);
  const auto ask = [&](char c) {
    char got = 0;
    REQUIRE(write(question[1], &c, 1) == 1 && read(answer[0], &got, 1) == 1 && got == c + 1, "%c is answered with %c", c, got);
  };
  ask('a');
  const auto mode = [&] { return line_value(read_text("/proc/" + std::to_string(strict) + "/status"), "Seccomp"); };
  REQUIRE(mode() == "1", "the strict child is in mode %s", mode().c_str());

  const pid_t middle = child([&] {
    close(question[1]);
    confine(SYS_getpgrp, 70);
    const pid_t leaf = child([&] {
      confine(SYS_getsid, 71);
      roll.here();
      wait_for_go();
      require_forbidden(SYS_getpgrp, 70, "the leaf: getpgrp");
      require_forbidden(SYS_getsid, 71, "the leaf: getsid");
      require_filters("2", "the leaf");
    });
    roll.here();
    wait_for_go();
    require_forbidden(SYS_getpgrp, 70, "the middle: getpgrp");
    REQUIRE(getsid(0) > 0, "the middle: getsid: %s", strerror(errno));
    require_filters("1", "the middle");
    join(leaf);
  });
  roll.wait_for(2);
  ready();
  wait_in_place("the first");
  require_filters("0", "the first");
  ask('x');
  REQUIRE(mode() == "1", "the strict child is in mode %s now", mode().c_str());
  close(question[1]);
  join(strict);
  join(middle);
  return passed();
}
