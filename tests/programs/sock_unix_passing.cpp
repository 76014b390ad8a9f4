// Descriptors under way in unix sockets: of files that the process has open too, or not any more; several at once; in the
// middle of a stream; a socket under way in itself, and one that is nobody's but its own queue's.
#include <sys/eventfd.h>

#include "sockets.h"

namespace {

void pass(int fd, const std::string& text, const std::vector<int>& files) {
  alignas(cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))] = {};
  iovec piece = {const_cast<char*>(text.data()), text.size()};
  msghdr message = {};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(files.size() * sizeof(int));
  cmsghdr* c = CMSG_FIRSTHDR(&message);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(files.size() * sizeof(int));
  memcpy(CMSG_DATA(c), files.data(), files.size() * sizeof(int));
  REQUIRE(sendmsg(fd, &message, 0) == static_cast<ssize_t>(text.size()), "sendmsg: %s", strerror(errno));
}

std::vector<int> take(int fd, const std::string& expected, size_t room = 1000) {
  alignas(cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))] = {};
  std::string text(room, 0);
  iovec piece = {text.data(), room};
  msghdr message = {};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t n = must(recvmsg(fd, &message, MSG_DONTWAIT), "recvmsg");
  text.resize(n);
  REQUIRE(text == expected, "'%s' came, not '%s'", text.c_str(), expected.c_str());
  const cmsghdr* c = CMSG_FIRSTHDR(&message);
  if (c == nullptr) return {};
  std::vector<int> files((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
  memcpy(files.data(), CMSG_DATA(c), files.size() * sizeof(int));
  return files;
}

std::string read_some(int fd, size_t size) {
  std::string text(size, 0);
  text.resize(must(read(fd, text.data(), size), "read"));
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const std::string file = make_file("file", 1000, 5);
  const std::string content = filled_text(1000, 5);
  const Ends stream = socket_pair(SOCK_STREAM), packets = socket_pair(SOCK_SEQPACKET), datagrams = socket_pair(SOCK_DGRAM),
             self = socket_pair(SOCK_STREAM);
  const int kept = must(open(file.c_str(), O_RDONLY), "open");
  REQUIRE(read_some(kept, 100) == content.substr(0, 100), "read");
  const int lost = must(open(file.c_str(), O_RDWR | O_APPEND), "open");
  must(lseek(lost, 500, SEEK_SET), "lseek");
  const int event = eventfd(41, EFD_NONBLOCK);
  int ends[2];
  must(pipe2(ends, O_NONBLOCK), "pipe2");
  must(write(ends[1], "in the pipe", 11), "write");

  send_text(stream.one, "plain before ");
  pass(stream.one, "with files", {kept, lost, event});
  send_text(stream.one, "plain after");
  pass(stream.one, "the pipe", {ends[0], ends[1]});
  pass(packets.one, "packet", {lost, lost});
  send_text(packets.one, "without");
  pass(packets.one, "packet", {kept});
  pass(datagrams.one, "x", {event});
  close(lost);
  close(event);
  close(ends[0]);
  close(ends[1]);
  // Sockets under way: one with content of its own, and one that is in its own queue, both ends of it.
  const Ends nested = socket_pair(SOCK_STREAM);
  send_text(nested.one, "nested");
  pass(nested.one, "deeper", {kept});
  pass(stream.other, "s", {nested.other, nested.one});
  close(nested.one);
  close(nested.other);
  pass(self.one, "me", {self.one, self.other});
  ready();
  wait_for_go();

  // As much as comes without descriptors, then those.
  REQUIRE(take(stream.other, "plain before ", 13).empty(), "descriptors come too early");
  const std::vector<int> three = take(stream.other, "with files");
  REQUIRE(three.size() == 3, "%zu descriptors", three.size());
  REQUIRE(read_some(three[0], 100) == content.substr(100, 100), "the kept file stands elsewhere");
  REQUIRE(lseek(kept, 0, SEEK_CUR) == 200, "the file description is not shared any more");
  REQUIRE(lseek(three[1], 0, SEEK_CUR) == 500 && (fcntl(three[1], F_GETFL) & (O_APPEND | O_ACCMODE)) == (O_APPEND | O_RDWR),
          "the lost file is another");
  uint64_t count = 0;
  REQUIRE(read(three[2], &count, 8) == 8 && count == 41, "the counter is %llu", static_cast<unsigned long long>(count));
  const std::vector<int> pipe_ends = take(stream.other, "plain afterthe pipe");
  REQUIRE(pipe_ends.size() == 2, "%zu pipe ends", pipe_ends.size());
  REQUIRE(read_some(pipe_ends[0], 100) == "in the pipe", "the pipe has another content");
  must(write(pipe_ends[1], "x", 1), "write");
  REQUIRE(read_some(pipe_ends[0], 100) == "x", "the ends do not belong together");

  const std::vector<int> twice = take(packets.other, "packet");
  REQUIRE(twice.size() == 2 && lseek(twice[0], 700, SEEK_SET) == 700 && lseek(twice[1], 0, SEEK_CUR) == 700 &&
              lseek(three[1], 0, SEEK_CUR) == 700, "file descriptions are not shared");
  REQUIRE(take(packets.other, "without").empty(), "a descriptor too many");
  REQUIRE(take(packets.other, "packet").size() == 1, "a descriptor is missing");
  const std::vector<int> events = take(datagrams.other, "x");
  count = 7;
  REQUIRE(events.size() == 1 && write(events[0], &count, 8) == 8 && read(three[2], &count, 8) == 8 && count == 7,
          "the eventfd is not shared");

  const std::vector<int> inner = take(stream.one, "s");
  REQUIRE(inner.size() == 2, "%zu sockets", inner.size());
  REQUIRE(take(inner[0], "nested", 6).empty(), "a descriptor too early");
  const std::vector<int> deeper = take(inner[0], "deeper");
  REQUIRE(deeper.size() == 1 && lseek(deeper[0], 0, SEEK_CUR) == 200, "the innermost is another");
  send_text(inner[1], "still");
  require_text(inner[0], "still", "nested");
  const std::vector<int> me = take(self.other, "me");
  REQUIRE(me.size() == 2, "%zu of myself", me.size());
  send_text(me[0], "through me");
  require_text(self.other, "through me", "self");
  require_text(stream.other, "EAGAIN", "stream, at the end");
  return passed();
}
