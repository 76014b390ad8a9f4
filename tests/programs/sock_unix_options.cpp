// Options of unix sockets; credentials of what is queued; SO_PEEK_OFF; a filter; asynchronous signals.
#include <linux/filter.h>
#include <sys/time.h>

#include "sockets.h"

namespace {

struct Option {
  int name, value;
};

constexpr Option kOptions[] = {{SO_PASSCRED, 1},  {SO_REUSEADDR, 1}, {SO_KEEPALIVE, 1}, {SO_BROADCAST, 1},
                               {SO_PRIORITY, 4},  {SO_RCVLOWAT, 3},  {SO_MARK, 77},     {SO_TIMESTAMP, 1},
                               {SO_OOBINLINE, 1}, {SO_PEEK_OFF, 2}};

ucred sender_of(int fd, const std::string& expected) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred)) + 256] = {};
  char text[100];
  iovec piece = {text, sizeof text};
  msghdr message = {};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t n = must(recvmsg(fd, &message, MSG_DONTWAIT), "recvmsg");
  REQUIRE(std::string(text, n) == expected, "'%.*s' came, not '%s'", static_cast<int>(n), text, expected.c_str());
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_type != SCM_CREDENTIALS) continue;
    ucred cred;
    memcpy(&cred, CMSG_DATA(c), sizeof cred);
    return cred;
  }
  failed("'%s' has no credentials", expected.c_str());
}

void send_as(int fd, const std::string& text, uid_t uid, gid_t gid) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))] = {};
  iovec piece = {const_cast<char*>(text.data()), text.size()};
  msghdr message = {};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* c = CMSG_FIRSTHDR(&message);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_CREDENTIALS;
  c->cmsg_len = CMSG_LEN(sizeof(ucred));
  const ucred cred = {getpid(), uid, gid};
  memcpy(CMSG_DATA(c), &cred, sizeof cred);
  must(sendmsg(fd, &message, 0), "sendmsg");
}

timeval timeout_of(int fd, int name) {
  timeval time = {};
  socklen_t size = sizeof time;
  must(getsockopt(fd, SOL_SOCKET, name, &time, &size), "getsockopt");
  return time;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const Ends plain = socket_pair(SOCK_STREAM), set = socket_pair(SOCK_STREAM), packets = socket_pair(SOCK_SEQPACKET),
             filtered = socket_pair(SOCK_DGRAM), small = socket_pair(SOCK_STREAM), creds = socket_pair(SOCK_STREAM);
  for (const Option& option : kOptions) set_int_option(set.one, option.name, option.value);
  timeval receive_time = {3, 250'000}, send_time = {7, 0};
  must(setsockopt(set.one, SOL_SOCKET, SO_RCVTIMEO, &receive_time, sizeof receive_time), "SO_RCVTIMEO");
  must(setsockopt(set.one, SOL_SOCKET, SO_SNDTIMEO, &send_time, sizeof send_time), "SO_SNDTIMEO");
  receive_time = timeout_of(set.one, SO_RCVTIMEO);  // as the kernel rounds it
  send_time = timeout_of(set.one, SO_SNDTIMEO);
  send_text(set.other, "peek at me");
  set_int_option(small.one, SO_SNDBUF, 10000);
  set_int_option(small.one, SO_RCVBUF, 20000);
  const int size = int_option(small.one, SO_SNDBUF), receive_size = int_option(small.one, SO_RCVBUF);
  send_text(small.one, filled_text(4000, 3));

  set_int_option(creds.other, SO_PASSCRED, 1);
  set_int_option(packets.other, SO_PASSCRED, 1);
  for (const int fd : {creds.one, packets.one}) {
    send_as(fd, "root", 0, 0);
    send_as(fd, "user", 1234, 5678);
  }
  // Whole datagrams that do not begin with 'n'.
  sock_filter code[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'n', 0, 1),
                        BPF_STMT(BPF_RET | BPF_K, 0), BPF_STMT(BPF_RET | BPF_K, 0xffff)};
  const sock_fprog program = {4, code};
  must(setsockopt(filtered.other, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program), "SO_ATTACH_FILTER");
  must(fcntl(plain.one, F_SETOWN, getpid()), "F_SETOWN");
  must(fcntl(plain.one, F_SETSIG, SIGUSR1), "F_SETSIG");
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR1);
  sigprocmask(SIG_BLOCK, &blocked, nullptr);
  must(fcntl(plain.one, F_SETFL, O_ASYNC), "O_ASYNC");
  ready();
  wait_for_go();

  for (const Option& option : kOptions) {
    REQUIRE(int_option(set.one, option.name) == option.value, "option %d is %d, not %d", option.name,
            int_option(set.one, option.name), option.value);
    if (option.name != SO_PEEK_OFF && option.name != SO_RCVLOWAT)
      REQUIRE(int_option(plain.other, option.name) == 0, "option %d has come", option.name);
  }
  REQUIRE(receive(set.one, 4, MSG_PEEK) == "ek a" && int_option(set.one, SO_PEEK_OFF) == 6, "peeking goes on elsewhere");
  require_text(set.one, "peek at me", "nothing was consumed");
  const timeval receive_now = timeout_of(set.one, SO_RCVTIMEO), send_now = timeout_of(set.one, SO_SNDTIMEO);
  REQUIRE(receive_now.tv_sec == 3 && receive_now.tv_usec == receive_time.tv_usec && send_now.tv_sec == 7,
          "time limits are %ld.%06ld and %ld s", receive_now.tv_sec, receive_now.tv_usec, send_now.tv_sec);
  REQUIRE(int_option(small.one, SO_SNDBUF) == size && int_option(small.one, SO_RCVBUF) == receive_size &&
              int_option(small.other, SO_SNDBUF) == int_option(plain.one, SO_SNDBUF), "buffers have another size");
  require_text(small.other, filled_text(4000, 3), "the small one");
  for (const int fd : {creds.other, packets.other}) {
    ucred cred = sender_of(fd, "root");
    REQUIRE(cred.pid == getpid() && cred.uid == 0 && cred.gid == 0, "root is %d %d %d", cred.pid, cred.uid, cred.gid);
    cred = sender_of(fd, "user");
    REQUIRE(cred.pid == getpid() && cred.uid == 1234 && cred.gid == 5678, "user is %d %d %d", cred.pid, cred.uid, cred.gid);
  }
  send_text(filtered.one, "no");
  send_text(filtered.one, "yes");
  require_text(filtered.other, "yes", "the filter");
  send_text(plain.other, "x");
  REQUIRE(sigtimedwait(&blocked, nullptr, &(const timespec&)as_timespec(5'000'000'000)) == SIGUSR1, "no signal came");
  return passed();
}
