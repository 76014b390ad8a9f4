#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "engine/kinds/socket_options.h"
#include "engine/kinds/unix_name.h"
#include "tests/unit/descriptor_fixture.h"

namespace ckpt {
namespace {

class UnixSocketTest : public DescriptorTest {
 protected:
  static std::array<int, 2> pair(int type) {
    std::array<int, 2> ends = {-1, -1};
    EXPECT_EQ(socketpair(AF_UNIX, type, 0, ends.data()), 0);
    return ends;
  }

  static int named(int type, const std::string& name) {
    const int fd = socket(AF_UNIX, type, 0);
    sockaddr_un address = {};
    const socklen_t size = address_of({name}, address);
    EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0) << name;
    return fd;
  }

  static int connect_to(int fd, const std::string& name) {
    sockaddr_un address = {};
    const socklen_t size = address_of({name}, address);
    return connect(fd, reinterpret_cast<sockaddr*>(&address), size);
  }

  static std::string receive(int fd) {
    char buffer[1000];
    const ssize_t n = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
    return n < 0 ? errno_text(errno) : std::string(buffer, static_cast<size_t>(n));
  }

  static void close_all(const std::set<int>& fds) {
    for (const int fd : fds) close(fd);
  }

  /// Of the socket of a descriptor.
  std::string object(int fd) {
    const std::string text = record(fd);
    const size_t at = text.find("object ") + 7;
    return "objects/" + text.substr(at, text.find('\n', at) - at);
  }
};

TEST_F(UnixSocketTest, AnEndOutsideIsRefusedByName) {
  const auto ends = pair(SOCK_STREAM);
  EXPECT_NE(refusal({ends[0]}).find("whose other end is outside"), std::string::npos) << refusal({ends[0]});
  EXPECT_EQ(refusal({ends[0], ends[1]}), "");
  const int listener = named(SOCK_STREAM, path("listener")), client = socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_EQ(listen(listener, 3), 0);
  ASSERT_EQ(connect_to(client, path("listener")), 0);
  EXPECT_NE(refusal({client}).find(path("listener")), std::string::npos) << refusal({client});
  // A client outside may be under way in the socket itself: only the stop tells.
  const Error late = [&] {
    try {
      capture_descriptors(capture_context(), table({listener}));
    } catch (const Error& e) {
      return e;
    }
    return Error(ENODATA, "not refused");
  }();
  EXPECT_EQ(late.err(), EOPNOTSUPP) << late.sentence();
  EXPECT_EQ(refusal({listener, client}), "");
  ASSERT_EQ(send(client, "x", 1, 0), 1);
  EXPECT_NE(refusal({listener, client}).find("before it was accepted"), std::string::npos);
  close_all({ends[0], ends[1], listener, client});
}

TEST_F(UnixSocketTest, WithoutSocketsTheOtherEndIsClosed) {
  no_sockets_ = true;
  const auto stream = pair(SOCK_STREAM), datagrams = pair(SOCK_DGRAM);
  const int listener = named(SOCK_STREAM, std::string("\0ckpt-no-sockets", 16) + std::to_string(getpid()));
  ASSERT_EQ(listen(listener, 3), 0);
  sockaddr_un address = {};
  socklen_t size = sizeof address;
  getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  const int outside = socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_EQ(connect(outside, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(send(stream[1], "last", 4, 0), 4);
  capture({stream[0], datagrams[0], listener});
  close_all({stream[0], stream[1], datagrams[0], datagrams[1], listener, outside});
  restore();
  EXPECT_EQ(receive(stream[0]), "last");
  EXPECT_EQ(receive(stream[0]), "");
  EXPECT_EQ(send(stream[0], "x", 1, MSG_NOSIGNAL), -1);
  EXPECT_EQ(errno, EPIPE);
  EXPECT_EQ(send(datagrams[0], "x", 1, 0), -1);
  EXPECT_EQ(errno, ECONNREFUSED);
  EXPECT_EQ(fcntl(listener, F_SETFL, O_NONBLOCK), 0);
  EXPECT_EQ(accept(listener, nullptr, nullptr), -1) << "a connection from outside is there again";
  close_all({stream[0], datagrams[0], listener});
}

TEST_F(UnixSocketTest, CaptureConsumesNothing) {
  const auto ends = pair(SOCK_SEQPACKET);
  for (const char* text : {"one", "two", "three"}) ASSERT_GT(send(ends[0], text, strlen(text), 0), 0);
  const int offset = 3;
  ASSERT_EQ(setsockopt(ends[0], SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset), 0);
  capture({ends[0], ends[1]});
  EXPECT_EQ(socket_option(ends[1], SOL_SOCKET, SO_PEEK_OFF), -1);
  EXPECT_EQ(socket_option(ends[0], SOL_SOCKET, SO_PEEK_OFF), 3);
  for (const char* text : {"one", "two", "three"}) EXPECT_EQ(receive(ends[1]), text);
  close_all({ends[0], ends[1]});
}

TEST_F(UnixSocketTest, ASocketFileIsMadeAgainAndTakenBack) {
  const int listener = named(SOCK_STREAM, path("listener"));
  ASSERT_EQ(chmod(path("listener").c_str(), 0640), 0);
  ASSERT_EQ(listen(listener, 3), 0);
  capture({listener});
  // The old one listens still.
  EXPECT_EQ(restore_error().err(), EADDRINUSE);
  traces_.take_back();
  close(listener);
  // Its stale file makes way; a failure afterwards leaves one as stale.
  image_.put("fds/3", "type unix\nobject unix-1\nflags 0x2\npos 0\n");
  EXPECT_EQ(restore_error().err(), EINVAL);
  EXPECT_EQ(access(path("listener").c_str(), F_OK), 0);
  image_.content("fds/3") = "type unix\nobject unix-2\nflags 0x2\npos 0\n";
  image_.put("objects/unix-1", "socket stream\nstate connected\npeer unix-2\nuser 0 0\n");
  image_.put("objects/unix-2", "socket stream\nstate connected\npeer unix-1\nuser 0 0\noption NONSENSE 1\n");
  EXPECT_EQ(restore_error().err(), EINVAL);
  traces_.take_back();
  EXPECT_EQ(access(path("listener").c_str(), F_OK), 0) << "it was there before";
  ASSERT_EQ(unlink(path("listener").c_str()), 0);
  EXPECT_EQ(restore_error().err(), EINVAL);
  EXPECT_EQ(access(path("listener").c_str(), F_OK), 0);
  traces_.take_back();
  EXPECT_EQ(access(path("listener").c_str(), F_OK), -1) << "it is left behind";

  image_.remove("fds/3");
  image_.remove("objects/unix-1");
  image_.remove("objects/unix-2");
  restore();
  struct stat st = {};
  ASSERT_EQ(stat(path("listener").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0640u);
  close(listener);
  // Something else took the name.
  ASSERT_EQ(unlink(path("listener").c_str()), 0);
  write_file("listener", "precious");
  EXPECT_EQ(restore_error().err(), EADDRINUSE);
  EXPECT_EQ(read_file(path("listener")), "precious");
}

TEST_F(UnixSocketTest, APlainCallerAppearsAsNobodyElse) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to act for somebody else";
  const auto ends = pair(SOCK_DGRAM);
  const int on = 1;
  ASSERT_EQ(setsockopt(ends[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on), 0);
  ASSERT_EQ(send(ends[0], "x", 1, 0), 1);
  capture({ends[0], ends[1]});
  close_all({ends[0], ends[1]});
  caller_.uid = 1234;
  caller_.gid = 1234;
  image_.replace(object(ends[0]), "peercred " + std::to_string(getpid()) + " 0 0", "peercred 1 99 1234");
  image_.replace(object(ends[1]), "peercred " + std::to_string(getpid()) + " 0 0", "peercred 1 99 1234");
  EXPECT_EQ(restore_error().err(), EPERM);
  image_.replace(object(ends[0]), " 99 1234", " 1234 1234");
  image_.replace(object(ends[1]), " 99 1234", " 1234 1234");
  EXPECT_EQ(restore_error().err(), EPERM) << "of the message";
  image_.replace(object(ends[1]), "cred " + std::to_string(getpid()) + " 0 0", "cred 1 1234 1234");
  restore();
  ucred cred = {};
  socklen_t size = sizeof cred;
  ASSERT_EQ(getsockopt(ends[0], SOL_SOCKET, SO_PEERCRED, &cred, &size), 0);
  EXPECT_EQ(cred.uid, 1234u);
  close_all({ends[0], ends[1]});
}

TEST_F(UnixSocketTest, ImagesThatContradictThemselvesAreRefused) {
  const auto ends = pair(SOCK_STREAM);
  ASSERT_EQ(send(ends[0], "content", 7, 0), 7);
  capture({ends[0], ends[1]});
  close_all({ends[0], ends[1]});
  const auto refused = [&](const std::string& file, const std::string& from, const std::string& to) {
    std::string& text = image_.content(file);
    const std::string before = text;
    image_.replace(file, from, to);
    EXPECT_EQ(restore_error().err(), EINVAL) << from << " -> " << to;
    text = before;
  };
  const std::string one = object(ends[0]), other = object(ends[1]);
  refused(one, "peer unix-", "peer unix-9");
  refused(one, "peer " + other.substr(8), "peer " + one.substr(8));
  refused(one, "state connected", "state hung_up");
  refused(one, "socket stream", "socket dgram");
  refused(other, "message 7", "message 8");
  refused(other, "message 7", "message 7\npasses fd-999");
  refused(other, "message 7", "message 7\npasses queued-0");
  refused(other + ".data", "content", "con");
  refused(other, "user 0 0", "user 0 0\nsndbuf 99999999999");
  refused(other, "user 0 0", "user 0 0\noption PRIORITY x");
  refused(other, "user 0 0", "user 0 0\nfilter 00");
  refused(other, "user 0 0", "user 0 0\nlinger 2 2");
  refused(other, "user 0 0", "user 0 0\nrcvtimeo 0 1000000");
  image_.replace(other, "message 7", "message 7\npasses queued-0");
  image_.put("objects/queued-0", "type epoll\ntarget x\npos 0\nflags 0x2\n");
  EXPECT_EQ(restore_error().err(), EINVAL);
}

}  // namespace
}  // namespace ckpt
