// Datagram sockets: pairs, bound ones in the filesystem and abstract, senders that are connected, gone, unnamed; queues
// with messages of several senders, of no bytes, a full queue; a peer that has gone.
#include "sockets.h"

namespace {

struct Datagram {
  std::string text, from;
};

Datagram take(int fd) {
  char text[65536];
  sockaddr_un address = {};
  socklen_t size = sizeof address;
  const ssize_t n = recvfrom(fd, text, sizeof text, MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&address), &size);
  if (n < 0) return {strerrorname_np(errno), ""};
  std::string from;
  if (size > offsetof(sockaddr_un, sun_path)) {
    from.assign(address.sun_path, size - offsetof(sockaddr_un, sun_path));
    from = from[0] == 0 ? "@" + from.substr(1) : std::string(from.c_str());
  }
  return {std::string(text, static_cast<size_t>(n)), from};
}

void require_datagram(int fd, const std::string& text, const std::string& from, const char* what) {
  const Datagram got = take(fd);
  REQUIRE(got.text == text, "%s: '%.60s', not '%.60s'", what, got.text.c_str(), text.c_str());
  REQUIRE(got.from == from, "%s: from '%s', not '%s'", what, got.from.c_str(), from.c_str());
}

void send_to(int fd, const std::string& name, const std::string& text) {
  const UnixAddress to(name);
  must(sendto(fd, text.data(), text.size(), MSG_DONTWAIT, to.get(), to.size), name.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const std::string here = path("server"), abstract = "@ckpt-dgram-" + std::to_string(getpid());
  const Ends pair = socket_pair(SOCK_DGRAM);
  for (int i = 0; i < 30; ++i) send_text(pair.one, "message " + std::to_string(i));
  send_text(pair.other, "");
  send_text(pair.other, "after nothing");

  const int server = unix_socket(SOCK_DGRAM, here), client = unix_socket(SOCK_DGRAM, abstract),
            anonymous = unix_socket(SOCK_DGRAM);
  must(connect_unix(client, here), "connect");
  must(connect_unix(anonymous, here), "connect");
  send_text(client, "of the named client");
  send_text(anonymous, "of nobody");
  {
    const int passing = unix_socket(SOCK_DGRAM, abstract + "-gone");
    send_to(passing, here, "of one that has gone");
    close(passing);
    const int other = unix_socket(SOCK_DGRAM);
    send_to(other, here, std::string(60000, 'L'));
    close(other);
  }
  send_to(server, abstract, "to the client");

  const int full = unix_socket(SOCK_DGRAM, abstract + "-full");
  const int writer = unix_socket(SOCK_DGRAM | SOCK_NONBLOCK);
  must(connect_unix(writer, abstract + "-full"), "connect");
  int waiting = 0;
  while (send(writer, "full", 4, 0) == 4) ++waiting;

  const int lost = unix_socket(SOCK_DGRAM), lost_server = unix_socket(SOCK_DGRAM, abstract + "-lost");
  must(connect_unix(lost, abstract + "-lost"), "connect");
  close(lost_server);
  const int closed_here = must(socket(AF_UNIX, SOCK_DGRAM, 0), "socket");
  const Ends half = socket_pair(SOCK_DGRAM);
  send_text(half.one, "from the one that has gone");
  close(half.one);
  const Ends mutual = {unix_socket(SOCK_DGRAM, abstract + "-a"), unix_socket(SOCK_DGRAM, abstract + "-b")};
  must(connect_unix(mutual.one, abstract + "-b"), "connect");
  must(connect_unix(mutual.other, abstract + "-a"), "connect");
  for (int i = 0; i < 20; ++i) send_text(mutual.one, std::to_string(i));
  must(shutdown(mutual.other, SHUT_WR), "shutdown");
  ready();
  wait_for_go();

  for (int i = 0; i < 30; ++i) require_datagram(pair.other, "message " + std::to_string(i), "", "pair");
  require_datagram(pair.other, "EAGAIN", "", "pair, at the end");
  require_datagram(pair.one, "", "", "pair, nothing");
  require_datagram(pair.one, "after nothing", "", "pair, after nothing");
  require_datagram(pair.one, "EAGAIN", "", "pair back, at the end");
  send_text(pair.one, "again");
  require_datagram(pair.other, "again", "", "pair, again");

  require_datagram(server, "of the named client", abstract, "server");
  require_datagram(server, "of nobody", "", "server");
  require_datagram(server, "of one that has gone", abstract + "-gone", "server");
  require_datagram(server, std::string(60000, 'L'), "", "server, a long one");
  require_datagram(server, "EAGAIN", "", "server, at the end");
  require_datagram(client, "to the client", here, "client");
  REQUIRE(name_of(client, getpeername) == here && name_of(client, getsockname) == abstract, "names of the client: %s %s",
          name_of(client, getpeername).c_str(), name_of(client, getsockname).c_str());
  REQUIRE(name_of(server, getpeername) == "ENOTCONN", "the server is connected");
  send_text(anonymous, "again");
  require_datagram(server, "again", "", "server, again");
  const UnixAddress to(abstract);
  REQUIRE(sendto(closed_here, "x", 1, MSG_DONTWAIT, to.get(), to.size) == -1 && errno == EPERM, "a stranger may send: %s", strerror(errno));
  require_datagram(client, "EAGAIN", "", "client, at the end");

  REQUIRE(send(writer, "full", 4, 0) == -1 && errno == EAGAIN, "the full queue is not full");
  for (int i = 0; i < waiting; ++i) require_datagram(full, "full", "", "full");
  require_datagram(full, "EAGAIN", "", "full, at the end");
  send_text(writer, "room again");
  require_datagram(full, "room again", "", "full, emptied");

  REQUIRE(name_of(lost, getpeername) == abstract + "-lost", "the peer that has gone: %s", name_of(lost, getpeername).c_str());
  REQUIRE(send(lost, "x", 1, 0) == -1 && errno == ECONNREFUSED, "somebody is there: %s", strerror(errno));
  require_datagram(half.other, "from the one that has gone", "", "half");
  REQUIRE(send(half.other, "x", 1, 0) == -1 && errno == ECONNREFUSED, "half: somebody is there: %s", strerror(errno));
  for (int i = 0; i < 20; ++i) require_datagram(mutual.other, std::to_string(i), abstract + "-a", "mutual");
  REQUIRE(send(mutual.other, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "shutdown is lost");
  unlink(here.c_str());
  return passed();
}
