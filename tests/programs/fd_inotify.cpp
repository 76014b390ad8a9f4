// inotify: its watches with their numbers and masks; they still see what happens.
#include "selfcheck.h"

#include <sys/inotify.h>

namespace {

struct Event {
  int watch;
  uint32_t mask;
  std::string name;
};

Event next(int fd) {
  alignas(inotify_event) static char buffer[4096];
  static ssize_t size = 0, at = 0;
  if (at >= size) {
    size = read(fd, buffer, sizeof buffer);
    at = 0;
    REQUIRE(size > 0, "no event: %s", strerror(errno));
  }
  const auto* event = reinterpret_cast<inotify_event*>(buffer + at);
  at += sizeof *event + event->len;
  return {event->wd, event->mask, event->len ? event->name : ""};
}

void expect(int fd, int watch, uint32_t mask, const char* name) {
  const Event event = next(fd);
  REQUIRE(event.watch == watch && event.mask == mask && event.name == name, "watch %d, mask %x, %s; not %d, %x, %s",
          event.watch, event.mask, event.name.c_str(), watch, mask, name);
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  must(mkdir(path("a").c_str(), 0755), "mkdir");
  must(mkdir(path("b").c_str(), 0755), "mkdir");
  const std::string file = make_file("file", 8, 1);
  const int fd = must(inotify_init1(IN_NONBLOCK | IN_CLOEXEC), "inotify_init1");
  const int a = must(inotify_add_watch(fd, path("a").c_str(), IN_CREATE | IN_DELETE | IN_ONLYDIR), "inotify_add_watch");
  const int gone = must(inotify_add_watch(fd, file.c_str(), IN_OPEN), "inotify_add_watch");
  const int b = must(inotify_add_watch(fd, path("b").c_str(), IN_MOVED_TO), "inotify_add_watch");
  must(inotify_rm_watch(fd, gone), "inotify_rm_watch");
  const int f = must(inotify_add_watch(fd, file.c_str(), IN_ATTRIB), "inotify_add_watch");
  expect(fd, gone, IN_IGNORED, "");
  ready();
  wait_for_go();
  char byte[64];
  REQUIRE(read(fd, byte, sizeof byte) == -1 && errno == EAGAIN, "there is an event from nowhere");
  make_file("a/new", 8, 1);
  expect(fd, a, IN_CREATE, "new");
  must(rename(path("a/new").c_str(), path("b/moved").c_str()), "rename");
  expect(fd, b, IN_MOVED_TO, "moved");
  must(chmod(file.c_str(), 0600), "chmod");
  expect(fd, f, IN_ATTRIB, "");
  REQUIRE(inotify_rm_watch(fd, gone) == -1 && errno == EINVAL, "a removed watch is back");
  must(inotify_rm_watch(fd, a), "removing a watch");
  expect(fd, a, IN_IGNORED, "");
  return passed();
}
