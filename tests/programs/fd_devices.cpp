// Character devices.
#include "selfcheck.h"

int main(int argc, char** argv) {
  begin(argc, argv);
  const int null = must(open("/dev/null", O_RDWR | O_CLOEXEC), "/dev/null");
  const int zero = must(open("/dev/zero", O_RDONLY), "/dev/zero");
  const int full = must(open("/dev/full", O_WRONLY), "/dev/full");
  const int random = must(open("/dev/urandom", O_RDONLY | O_NONBLOCK), "/dev/urandom");
  struct stat before[4], now[4];
  const int all[] = {null, zero, full, random};
  for (int i = 0; i < 4; ++i) must(fstat(all[i], &before[i]), "fstat");
  ready();
  wait_for_go();
  for (int i = 0; i < 4; ++i) {
    must(fstat(all[i], &now[i]), "fstat");
    REQUIRE(S_ISCHR(now[i].st_mode) && now[i].st_rdev == before[i].st_rdev, "descriptor %d is another device", all[i]);
  }
  char text[16] = "xxxxxxxxxxxxxxx";
  REQUIRE(read(null, text, 16) == 0 && write(null, text, 16) == 16, "/dev/null does not behave");
  REQUIRE(read(zero, text, 16) == 16, "/dev/zero: %s", strerror(errno));
  require_zero(text, 16, "/dev/zero");
  REQUIRE(write(full, text, 16) == -1 && errno == ENOSPC, "/dev/full does not behave");
  REQUIRE(read(random, text, 16) == 16, "/dev/urandom: %s", strerror(errno));
  REQUIRE(fcntl(random, F_GETFL) & O_NONBLOCK, "the flags of /dev/urandom are lost");
  REQUIRE(fcntl(null, F_GETFD) == FD_CLOEXEC, "close-on-exec is lost");
  return passed();
}
