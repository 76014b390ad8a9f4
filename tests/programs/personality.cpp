// The execution domain.
#include "selfcheck.h"

#include <sys/personality.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  constexpr unsigned long wanted = ADDR_NO_RANDOMIZE | ADDR_COMPAT_LAYOUT | SHORT_INODE;
  must(personality(wanted), "personality");
  ready();
  wait_for_go();
  const int now = personality(0xffffffff);
  REQUIRE(now == static_cast<int>(wanted), "it was %lx, is %x", wanted, now);
  return passed();
}
