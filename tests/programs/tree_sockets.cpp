// Unix sockets between processes: pairs with something on the way in both directions, a descriptor among it, a shared end,
// and a listening one whose connection a child has accepted.
#include <sys/socket.h>
#include <sys/un.h>

#include "family.h"

namespace {

void send_text(int fd, const std::string& text, int passed = -1) {
  iovec piece = {const_cast<char*>(text.data()), text.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header = {};
  header.msg_iov = &piece;
  header.msg_iovlen = 1;
  if (passed >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &passed, sizeof passed);
  }
  REQUIRE(sendmsg(fd, &header, MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()), "sendmsg: %s", strerror(errno));
}

/// Reads exactly this; a descriptor that comes with it, -1 for none.
int require_text(int fd, const std::string& text, const char* who) {
  std::string got(text.size(), '\0');
  iovec piece = {got.data(), got.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header = {};
  header.msg_iov = &piece;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  const ssize_t n = recvmsg(fd, &header, 0);
  REQUIRE(n == static_cast<ssize_t>(text.size()) && got == text, "%s: got '%s' (%zd), not '%s'", who, got.c_str(), n,
          text.c_str());
  int passed = -1;
  if (const cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr) memcpy(&passed, CMSG_DATA(c), sizeof passed);
  return passed;
}

sockaddr_un address_of(const std::string& file) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  strncpy(address.sun_path, file.c_str(), sizeof address.sun_path - 1);
  return address;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  Roll roll;
  int pair[2];
  must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), "socketpair");
  const int file = must(open(make_file("file", 1000, 5).c_str(), O_RDWR | O_CLOEXEC), "open");
  must(static_cast<int>(lseek(file, 123, SEEK_SET)), "lseek");
  const int listening = must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
  const sockaddr_un address = address_of(path("socket"));
  must(bind(listening, reinterpret_cast<const sockaddr*>(&address), sizeof address), "bind");
  must(listen(listening, 4), "listen");

  const pid_t other = child([&] {
    close(pair[0]);
    const int client = must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    must(connect(client, reinterpret_cast<const sockaddr*>(&address), sizeof address), "connect");
    close(listening);
    send_text(pair[1], "from the other");
    roll.here();
    wait_in_place("the other");
    require_text(pair[1], "from the first, ", "the other");
    const int passed = require_text(pair[1], "with a file", "the other");
    REQUIRE(passed >= 0 && lseek(passed, 0, SEEK_CUR) == 123, "the file that was passed is wrong");
    must(static_cast<int>(lseek(passed, 321, SEEK_SET)), "lseek");
    send_text(pair[1], "moved");
    require_text(client, "accepted", "the client");
    send_text(client, "indeed");
    char c;
    REQUIRE(read(client, &c, 1) == 0, "the connection does not end");
  });
  close(pair[1]);
  send_text(pair[0], "from the first, ");
  send_text(pair[0], "with a file", file);
  const int accepted = must(accept4(listening, nullptr, nullptr, SOCK_CLOEXEC), "accept");
  send_text(accepted, "accepted");
  // The same end in a third process.
  const pid_t third = child([&] {
    roll.here();
    wait_in_place("the third");
    wait_until([] { return access(path("said").c_str(), F_OK) == 0; }, "the first is done");
    require_text(accepted, "indeed", "the third");
  });
  roll.wait_for(2);
  ready();
  wait_in_place("the first");
  require_text(pair[0], "from the other", "the first");
  require_text(pair[0], "moved", "the first");
  REQUIRE(lseek(file, 0, SEEK_CUR) == 321, "the position is %ld: the file that was passed is another", lseek(file, 0, SEEK_CUR));
  close(accepted);
  write_file("said", "", 0);
  join(third);
  join(other);
  char c;
  REQUIRE(read(pair[0], &c, 1) == 0, "the pair has another end");
  return passed();
}
