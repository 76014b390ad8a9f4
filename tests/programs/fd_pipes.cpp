// Pipes with both ends inside: empty, partly filled, full, of another size, in packet mode; with one end closed.
#include "selfcheck.h"

namespace {

struct Pipe {
  int reader, writer;
};

Pipe make(int flags) {
  int ends[2];
  must(pipe2(ends, flags), "pipe2");
  return {ends[0], ends[1]};
}

void put(int fd, const std::string& text) {
  REQUIRE(write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()), "write: %s", strerror(errno));
}

std::string take(int fd, size_t size) {
  std::string text(size, 0);
  const ssize_t n = read(fd, text.data(), size);
  REQUIRE(n >= 0, "read: %s", strerror(errno));
  text.resize(n);
  return text;
}

void require_empty(int fd, const char* what) {
  char c;
  REQUIRE(read(fd, &c, 1) == -1 && errno == EAGAIN, "%s: there is more in it", what);
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const Pipe empty = make(O_NONBLOCK | O_CLOEXEC), some = make(O_NONBLOCK), full = make(O_NONBLOCK),
             large = make(O_NONBLOCK), packets = make(O_NONBLOCK | O_DIRECT), no_writer = make(0), no_reader = make(0);
  put(some.writer, "beginning");
  REQUIRE(take(some.reader, 3) == "beg", "read");
  put(some.writer, filled_text(5000, 1));
  const std::string whole = filled_text(65536, 2);
  put(full.writer, whole);
  must(fcntl(large.writer, F_SETPIPE_SZ, 1 << 20), "F_SETPIPE_SZ");
  put(large.writer, filled_text(300000, 3));
  for (int i = 0; i < 5; ++i) put(packets.writer, "packet " + std::to_string(i));
  put(no_writer.writer, "the last words");
  close(no_writer.writer);
  close(no_reader.reader);
  const int duplicate = must(dup(some.writer), "dup");
  signal(SIGPIPE, SIG_IGN);
  ready();
  wait_for_go([&] { require_empty(empty.reader, "the empty pipe"); });

  require_empty(empty.reader, "the empty pipe");
  REQUIRE(fcntl(empty.reader, F_GETFD) == FD_CLOEXEC && fcntl(some.reader, F_GETFD) == 0, "close-on-exec is wrong");
  put(empty.writer, "x");
  REQUIRE(take(empty.reader, 10) == "x", "the ends of the empty pipe do not belong together");
  REQUIRE(take(some.reader, 6) == "inning", "the partly filled pipe begins wrong");
  REQUIRE(take(some.reader, 10000) == filled_text(5000, 1), "the partly filled pipe is wrong");
  put(duplicate, "through the duplicate");
  REQUIRE(take(some.reader, 100) == "through the duplicate", "the duplicate leads elsewhere");
  REQUIRE(write(full.writer, "x", 1) == -1 && errno == EAGAIN, "the full pipe is not full");
  REQUIRE(take(full.reader, 100000) == whole, "the full pipe is wrong");
  require_empty(full.reader, "the full pipe");
  REQUIRE(fcntl(large.reader, F_GETPIPE_SZ) == 1 << 20, "size %d", fcntl(large.reader, F_GETPIPE_SZ));
  REQUIRE(take(large.reader, 400000) == filled_text(300000, 3), "the large pipe is wrong");
  REQUIRE(fcntl(packets.writer, F_GETFL) & O_DIRECT, "packet mode is lost");
  for (int i = 0; i < 5; ++i)
    REQUIRE(take(packets.reader, 100) == "packet " + std::to_string(i), "packet %d is wrong", i);
  put(packets.writer, "one");
  put(packets.writer, "two");
  REQUIRE(take(packets.reader, 100) == "one", "new packets run together");
  REQUIRE(take(no_writer.reader, 100) == "the last words" && take(no_writer.reader, 100).empty(),
          "a pipe without writer has no end");
  REQUIRE(write(no_reader.writer, "x", 1) == -1 && errno == EPIPE, "a pipe without reader can be written");
  return passed();
}
