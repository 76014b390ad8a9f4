// Blocked in read of an empty pipe, in write of a full one, and in read of an eventfd.
#include "underway.h"

#include <sys/eventfd.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  int empty[2], full[2];
  must(pipe(empty), "pipe");
  must(pipe(full), "pipe");
  const int event = must(eventfd(0, 0), "eventfd");
  const std::string whole = filled_text(65536, 1);
  REQUIRE(write(full[1], whole.data(), whole.size()) == 65536, "write: %s", strerror(errno));
  UnderWay reader(SYS_read, [&] {
    char text[100];
    const ssize_t n = read(empty[0], text, sizeof text);
    REQUIRE(n == 5 && memcmp(text, "hello", 5) == 0, "read gives %zd: %s", n, strerror(errno));
  });
  UnderWay writer(SYS_write, [&] {
    const std::string more = filled_text(8192, 2);
    const ssize_t n = write(full[1], more.data(), more.size());
    REQUIRE(n == 8192, "write gives %zd: %s", n, strerror(errno));
  });
  UnderWay counter(SYS_read, [&] {
    eventfd_t value = 0;
    REQUIRE(eventfd_read(event, &value) == 0 && value == 9, "eventfd_read: %s", strerror(errno));
  });
  const auto inside = [&] {
    reader.require_inside("read");
    writer.require_inside("write");
    counter.require_inside("read of an eventfd");
  };
  ready();
  wait_for_go(inside);
  for (UnderWay* call : {&reader, &writer, &counter}) call->wait_inside();
  inside();
  REQUIRE(write(empty[1], "hello", 5) == 5, "write: %s", strerror(errno));
  must(eventfd_write(event, 9), "eventfd_write");
  std::string got(65536 + 8192, 0);
  for (size_t at = 0; at < got.size();) {
    const ssize_t n = must(read(full[0], got.data() + at, got.size() - at), "read");
    at += n;
  }
  REQUIRE(got == whole + filled_text(8192, 2), "what came through the full pipe is wrong");
  reader.join();
  writer.join();
  counter.join();
  return passed();
}
