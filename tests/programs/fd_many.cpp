// A thousand descriptors.
#include "selfcheck.h"

#include <sys/eventfd.h>
#include <sys/resource.h>

#include <algorithm>

int main(int argc, char** argv) {
  begin(argc, argv);
  rlimit limit;
  must(getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
  limit.rlim_cur = std::max<rlim_t>(limit.rlim_cur, std::min<rlim_t>(4096, limit.rlim_max));
  must(setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
  int fds[1000];
  for (int i = 0; i < 1000; ++i) {
    switch (i % 4) {
      case 0: fds[i] = eventfd(i, EFD_NONBLOCK); break;
      case 1: fds[i] = open(make_file("file " + std::to_string(i), 8, i).c_str(), O_RDONLY | O_CLOEXEC); break;
      case 2: fds[i] = open("/dev/null", O_RDWR); break;
      case 3: fds[i] = dup(fds[i - 2]); break;
    }
    must(fds[i], "the thousand descriptors");
    if (i % 4 == 1) must(lseek(fds[i], i % 9, SEEK_SET), "lseek");
  }
  ready();
  wait_for_go();
  for (int i = 0; i < 1000; ++i) {
    eventfd_t value = 0;
    struct stat st;
    must(fstat(fds[i], &st), "fstat");
    if (i % 4 == 0 && i != 0) REQUIRE(eventfd_read(fds[i], &value) == 0 && value == static_cast<eventfd_t>(i),
                                      "eventfd %d holds %llu", i, static_cast<unsigned long long>(value));
    if (i % 4 == 1) REQUIRE(lseek(fds[i], 0, SEEK_CUR) == i % 9, "descriptor %d is at a wrong position", fds[i]);
    if (i % 4 == 3) REQUIRE(lseek(fds[i], 1, SEEK_CUR) == lseek(fds[i - 2], 0, SEEK_CUR), "a duplicate is none");
  }
  const int next = must(open("/dev/null", O_RDONLY), "open");
  REQUIRE(next == *std::max_element(fds, fds + 1000) + 1, "the next descriptor is %d", next);
  return passed();
}
