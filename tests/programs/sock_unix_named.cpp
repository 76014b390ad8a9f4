// Listening sockets, in the filesystem and abstract, with connections that wait to be accepted; accepted ones whose listener
// has gone or not; clients with names; names by a relative path, or whose file is gone; the credentials of the other end.
#include <sys/wait.h>

#include "sockets.h"

namespace {

struct Server {
  std::string name;
  int listener, client, accepted, pending_one, pending_two;
};

int client_of(const std::string& name, int type) {
  const int fd = unix_socket(type);
  must(connect_unix(fd, name), name.c_str());
  return fd;
}

Server serve(const std::string& name, int type, int backlog) {
  Server s;
  s.name = name;
  s.listener = unix_socket(type, name);
  must(listen(s.listener, backlog), "listen");
  s.client = client_of(name, type);
  s.accepted = must(accept(s.listener, nullptr, nullptr), "accept");
  s.pending_one = client_of(name, type);
  s.pending_two = client_of(name, type);
  send_text(s.client, "to the server");
  send_text(s.accepted, "to the client");
  return s;
}

void require_names(int fd, const std::string& own, const std::string& peer) {
  REQUIRE(name_of(fd, getsockname) == own && name_of(fd, getpeername) == peer, "names are '%s' and '%s', not '%s' and '%s'",
          name_of(fd, getsockname).c_str(), name_of(fd, getpeername).c_str(), own.c_str(), peer.c_str());
}

void require_server(const Server& s, int type) {
  REQUIRE(int_option(s.listener, SO_ACCEPTCONN) == 1, "%s: does not listen", s.name.c_str());
  require_names(s.listener, s.name, "ENOTCONN");
  require_names(s.accepted, s.name, "");
  require_names(s.client, "", s.name);
  require_text(s.accepted, "to the server", "accepted");
  require_text(s.client, "to the client", "client");
  send_text(s.client, "more");
  require_text(s.accepted, "more", "accepted");
  send_text(s.pending_one, "one");
  send_text(s.pending_two, "two");
  require_text(must(accept(s.listener, nullptr, nullptr), "accept"), "one", "the first that waited");
  const int second = must(accept(s.listener, nullptr, nullptr), "accept");
  require_text(second, "two", "the second that waited");
  require_names(s.pending_two, "", s.name);
  fcntl(s.listener, F_SETFL, O_NONBLOCK);
  REQUIRE(accept(s.listener, nullptr, nullptr) == -1 && errno == EAGAIN, "there is one more");
  const int later = client_of(s.name, type);
  send_text(later, "later");
  require_text(must(accept(s.listener, nullptr, nullptr), "accept"), "later", "one that came later");
}

ucred peer_of(int fd) {
  ucred cred = {};
  socklen_t size = sizeof cred;
  must(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size), "SO_PEERCRED");
  return cred;
}

/// How many connections fit beside those that are there.
int room(const std::string& name) {
  std::vector<int> clients;
  for (;;) {
    const int fd = unix_socket(SOCK_STREAM | SOCK_NONBLOCK);
    clients.push_back(fd);
    if (connect_unix(fd, name) != 0) break;
  }
  for (const int fd : clients) close(fd);
  return static_cast<int>(clients.size()) - 1;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const std::string abstract = "@ckpt-named-" + std::to_string(getpid());
  must(chdir(directory.c_str()), "chdir");
  umask(027);
  const Server plain = serve(path("stream"), SOCK_STREAM, 5), packets = serve(path("packets"), SOCK_SEQPACKET, 5),
               hidden = serve(abstract, SOCK_STREAM, 5), relative = serve("relative", SOCK_STREAM, 5),
               unlinked = serve(path("unlinked"), SOCK_STREAM, 5);
  must(chmod("stream", 0600), "chmod");
  must(chown("packets", 12, 34), "chown");
  must(unlink("unlinked"), "unlink");
  struct stat before = {};
  must(stat("relative", &before), "stat");

  // The listener has gone, its file has or has not; an abstract name is free for somebody else.
  const int old = unix_socket(SOCK_STREAM, path("old"));
  must(listen(old, 1), "listen");
  const int old_client = client_of(path("old"), SOCK_STREAM), old_accepted = must(accept(old, nullptr, nullptr), "accept");
  close(old);
  const int old_hidden = unix_socket(SOCK_STREAM, abstract + "-old");
  must(listen(old_hidden, 1), "listen");
  const int hidden_client = unix_socket(SOCK_STREAM, abstract + "-client");
  must(connect_unix(hidden_client, abstract + "-old"), "connect");
  const int hidden_accepted = must(accept(old_hidden, nullptr, nullptr), "accept");
  close(old_hidden);

  // Only the other end's name is left.
  const int brief = unix_socket(SOCK_STREAM, path("brief"));
  must(listen(brief, 5), "listen");
  const int left = client_of(path("brief"), SOCK_STREAM);
  close(must(accept(brief, nullptr, nullptr), "accept"));
  close(client_of(path("brief"), SOCK_STREAM));
  const int left_accepted = must(accept(brief, nullptr, nullptr), "accept");

  // Listened for and connected to by different users.
  const int users = unix_socket(SOCK_STREAM, abstract + "-users");
  must(syscall(SYS_setresgid, -1, 77, -1), "setresgid");
  must(syscall(SYS_setresuid, -1, 66, -1), "setresuid");
  must(listen(users, 3), "listen");
  must(syscall(SYS_setresuid, -1, 0, -1), "setresuid");
  must(syscall(SYS_setresgid, -1, 0, -1), "setresgid");
  const int user_client = client_of(abstract + "-users", SOCK_STREAM),
            user_accepted = must(accept(users, nullptr, nullptr), "accept");
  const int bound = unix_socket(SOCK_STREAM, path("bound"));
  const int tight = unix_socket(SOCK_STREAM, abstract + "-tight");
  must(listen(tight, 3), "listen");
  const int fits = room(abstract + "-tight");
  for (int i = 0; i < fits; ++i) close(must(accept(tight, nullptr, nullptr), "accept"));
  ready();
  wait_for_go();

  require_server(plain, SOCK_STREAM);
  require_server(packets, SOCK_SEQPACKET);
  require_server(hidden, SOCK_STREAM);
  require_server(relative, SOCK_STREAM);
  struct stat now = {};
  must(stat("stream", &now), "stat");
  REQUIRE(now.st_mode == (S_IFSOCK | 0600), "mode %o", now.st_mode);
  must(stat("relative", &now), "stat");
  REQUIRE(now.st_mode == before.st_mode && now.st_uid == 0, "mode %o, not %o", now.st_mode, before.st_mode);
  must(stat("packets", &now), "stat");
  REQUIRE(now.st_uid == 12 && now.st_gid == 34, "the owner is %d %d", now.st_uid, now.st_gid);

  REQUIRE(access("unlinked", F_OK) == -1, "a name that was taken away is there again");
  require_names(unlinked.listener, path("unlinked"), "ENOTCONN");
  require_text(unlinked.accepted, "to the server", "unlinked");
  send_text(unlinked.pending_one, "one");
  require_text(must(accept(unlinked.listener, nullptr, nullptr), "accept"), "one", "unlinked, the first that waited");

  require_names(old_accepted, path("old"), "");
  require_names(old_client, "", path("old"));
  require_names(hidden_accepted, abstract + "-old", abstract + "-client");
  require_names(hidden_client, abstract + "-client", abstract + "-old");
  send_text(hidden_client, "across");
  require_text(hidden_accepted, "across", "hidden");
  close(unix_socket(SOCK_STREAM, abstract + "-old"));
  const int probe = unix_socket(SOCK_STREAM);
  const UnixAddress taken(abstract + "-client");
  REQUIRE(bind(probe, taken.get(), taken.size) == -1 && errno == EADDRINUSE, "the client has lost its name");

  require_names(left, "", path("brief"));
  require_text(left, "", "hung up");
  require_names(left_accepted, path("brief"), "");
  require_text(left_accepted, "", "hung up");

  REQUIRE(peer_of(user_client).uid == 66 && peer_of(user_client).gid == 77, "the client sees user %d", peer_of(user_client).uid);
  REQUIRE(peer_of(user_accepted).uid == 0 && peer_of(user_accepted).gid == 0, "the server sees %d", peer_of(user_accepted).uid);
  REQUIRE(peer_of(user_client).pid == getpid() && peer_of(plain.client).pid == getpid(), "pid %d", peer_of(user_client).pid);
  REQUIRE(name_of(bound, getsockname) == path("bound") && access("bound", F_OK) == 0, "the bound one has lost its name");
  must(listen(bound, 1), "listen");
  close(client_of(path("bound"), SOCK_STREAM));
  REQUIRE(room(abstract + "-tight") == fits, "the backlog has changed");
  for (const char* name : {"stream", "packets", "relative", "old", "bound", "brief"}) unlink(name);
  return passed();
}
