// A directory read half: the other half comes, no entry twice and none left out.
#include "selfcheck.h"

#include <dirent.h>

#include <set>

namespace {

// One small buffer at a time by the system call, so that the position is the kernel's and not the library's.
bool read_some(int fd, std::set<std::string>* names) {
  alignas(8) char buffer[512];
  const long n = must(syscall(SYS_getdents64, fd, buffer, sizeof buffer), "getdents64");
  for (long at = 0; at < n;) {
    const auto* entry = reinterpret_cast<dirent64*>(buffer + at);
    REQUIRE(names->insert(entry->d_name).second, "%s comes twice", entry->d_name);
    at += entry->d_reclen;
  }
  return n > 0;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  must(mkdir(path("inside").c_str(), 0755), "mkdir");
  for (int i = 0; i < 200; ++i) make_file("inside/entry " + std::to_string(i), 8, i);
  const int fd = must(open(path("inside").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC), "open");
  const int unread = must(open(path("inside").c_str(), O_RDONLY | O_DIRECTORY), "open");
  std::set<std::string> names, all;
  while (names.size() < 80) read_some(fd, &names);
  ready();
  wait_for_go();
  while (read_some(fd, &names)) continue;
  REQUIRE(names.size() == 202, "%zu entries were read, not 202", names.size());
  while (read_some(unread, &all)) continue;
  REQUIRE(all == names, "the second descriptor gives %zu entries", all.size());
  REQUIRE(openat(fd, "entry 7", O_RDONLY) >= 0, "openat: %s", strerror(errno));
  return passed();
}
