// A named FIFO, opened at both ends, with something in it.
#include "selfcheck.h"

int main(int argc, char** argv) {
  begin(argc, argv);
  const std::string fifo = path("fifo"), wide = path("wide");
  must(mkfifo(fifo.c_str(), 0600), "mkfifo");
  must(mkfifo(wide.c_str(), 0600), "mkfifo");
  const int reader = must(open(fifo.c_str(), O_RDONLY | O_NONBLOCK), "open");
  const int writer = must(open(fifo.c_str(), O_WRONLY | O_CLOEXEC), "open");
  const int both = must(open(wide.c_str(), O_RDWR), "open");
  const std::string text = filled_text(30000, 1);
  REQUIRE(write(writer, text.data(), text.size()) == 30000, "write: %s", strerror(errno));
  REQUIRE(write(both, "in both", 7) == 7, "write: %s", strerror(errno));
  ready();
  wait_for_go();
  std::string got(40000, 0);
  REQUIRE(fcntl(reader, F_GETFL) & O_NONBLOCK, "the reader would block");
  REQUIRE(read(reader, got.data(), got.size()) == 30000 && got.compare(0, 30000, text) == 0, "the content is wrong");
  REQUIRE(read(reader, got.data(), 10) == -1 && errno == EAGAIN, "there is too much in it");
  REQUIRE(read(both, got.data(), 100) == 7 && got.compare(0, 7, "in both") == 0, "the other content is wrong");
  // It is still the FIFO of the file system: somebody who opens it by name gets through.
  const int again = must(open(fifo.c_str(), O_WRONLY | O_NONBLOCK), "opening it once more");
  REQUIRE(write(again, "hello", 5) == 5 && read(reader, got.data(), 10) == 5, "the name leads to another FIFO");
  close(again);
  close(writer);
  REQUIRE(read(reader, got.data(), 10) == 0, "there is no end of file after the last writer");
  return passed();
}
