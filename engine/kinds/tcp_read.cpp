// What the kernel tells of a TCP connection.
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <set>

#include "engine/base/error.h"
#include "engine/kernel.h"
#include "engine/kinds/socket_options.h"
#include "engine/kinds/tcp_connection.h"
#include "engine/kinds/unix_queue.h"
#include "engine/process/outlive.h"

namespace ckpt {

namespace {

constexpr int kUlp = 31;                         // TCP_ULP
// The oldest segment stays whole until all of it is acknowledged (tcp_clean_rtx_queue()): at most an IP packet.
constexpr size_t kOldestSegment = 64 << 10;
constexpr int kLooks = 10'000;

/// One socket while it is in repair. Between prepare() and understand() nothing allocates or throws (outlive.h).
class Reading {
 public:
  explicit Reading(int fd) : fd_(fd) {}

  void prepare() {
    sent_.resize(static_cast<size_t>(std::max(count(SIOCOUTQ), 0)) + kOldestSegment);
    failed_ = nullptr;
  }

  void begin() {
    ask(SOL_SOCKET, SO_REUSEADDR, reuse_, "SO_REUSEADDR");
    repairs_ = set(TCP_REPAIR, TCP_REPAIR_ON, "TCP_REPAIR");
  }

  void read_sending_half() {
    if (failed_ != nullptr || !set(TCP_REPAIR_QUEUE, TCP_SEND_QUEUE, "TCP_REPAIR_QUEUE")) return;
    ask(IPPROTO_TCP, TCP_QUEUE_SEQ, write_sequence_, "TCP_QUEUE_SEQ");
    peeked_ = ::recv(fd_, sent_.data(), sent_.size(), MSG_PEEK | MSG_DONTWAIT);
    if (peeked_ < 0) failed("what is to be sent");
    // Before anything else: what an acknowledgement sets free is not sent while this queue is selected.
    set(TCP_REPAIR_QUEUE, TCP_NO_QUEUE, "TCP_REPAIR_QUEUE");
    unsent_ = count(SIOCOUTQNSD);
    unacknowledged_ = count(SIOCOUTQ);
    ask(IPPROTO_TCP, TCP_MAXSEG, segment_, "TCP_MAXSEG");
    ask(IPPROTO_TCP, TCP_REPAIR_WINDOW, window_, "TCP_REPAIR_WINDOW");
  }

  void read_receiving_half() {
    if (failed_ != nullptr || !set(TCP_REPAIR_QUEUE, TCP_RECV_QUEUE, "TCP_REPAIR_QUEUE")) return;
    // Segments come in all the time: until two looks are alike.
    int before = -1, state_before = -1;
    uint32_t sequence_before = 0;
    for (int look = 0; look < kLooks; ++look) {
      ask(IPPROTO_TCP, TCP_INFO, info_, "TCP_INFO");
      ask(IPPROTO_TCP, TCP_QUEUE_SEQ, next_, "TCP_QUEUE_SEQ");
      unread_ = count(FIONREAD);
      if (unread_ == before && next_ == sequence_before && info_.tcpi_state == state_before) break;
      before = unread_;
      sequence_before = next_;
      state_before = info_.tcpi_state;
    }
    ask(IPPROTO_TCP, TCP_TIMESTAMP, timestamp_, "TCP_TIMESTAMP");
  }

  void end() {
    if (!repairs_) return;
    // It ends with SO_REUSEADDR cleared (tcp_repair_set() in net/ipv4/tcp.c). Without the probe of TCP_REPAIR_OFF.
    set(TCP_REPAIR, TCP_REPAIR_OFF_NO_WP, "TCP_REPAIR");
    setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &reuse_, sizeof reuse_);
  }

  std::optional<TcpConnection> understand();

 private:
  void failed(const char* what) {
    if (failed_ != nullptr) return;
    failed_ = what;
    error_ = errno;
  }
  template <typename T>
  void ask(int level, int name, T& value, const char* what) {
    socklen_t size = sizeof value;
    if (getsockopt(fd_, level, name, &value, &size) != 0) failed(what);
  }
  bool set(int name, int value, const char* what) {
    const bool good = setsockopt(fd_, IPPROTO_TCP, name, &value, sizeof value) == 0;
    if (!good) failed(what);
    return good;
  }
  int count(unsigned long request) {
    int value = -1;
    if (ioctl(fd_, request, &value) != 0) failed("the length of a queue");
    return value;
  }

  int fd_;
  bool repairs_ = false;
  int reuse_ = 0;
  std::string sent_;
  ssize_t peeked_ = 0;
  uint32_t write_sequence_ = 0, next_ = 0, segment_ = 0, timestamp_ = 0;
  int unsent_ = 0, unacknowledged_ = 0, unread_ = 0;
  tcp_repair_window window_ = {};
  tcp_info info_ = {};
  const char* failed_ = nullptr;
  int error_ = 0;
};

std::optional<TcpConnection> Reading::understand() {
  const auto now = tcp_info_of(fd_).tcpi_state;
  if (now == TCP_CLOSE) return std::nullopt;
  if (failed_ != nullptr) fail(error_, "a TCP connection: {}: {}", failed_, errno_text(error_));
  TcpConnection out;
  const auto in = [this](std::initializer_list<int> states) {
    return std::ranges::find(states, int{info_.tcpi_state}) != states.end();
  };
  out.fin_received = in({TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING});
  out.fin_sent = in({TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK, TCP_CLOSING});
  pollfd events = {fd_, POLLRDHUP, 0};
  ::poll(&events, 1, 0);
  out.shut_read = !out.fin_received && (events.revents & POLLRDHUP) != 0;

  // A FIN has a number of its own, after the last byte.
  const uint32_t end = write_sequence_ - (out.fin_sent ? 1 : 0);
  const uint32_t oldest = end - static_cast<uint32_t>(peeked_);
  const auto acknowledged = write_sequence_ - static_cast<uint32_t>(unacknowledged_) - oldest;
  const auto skip = std::min(static_cast<size_t>(acknowledged), static_cast<size_t>(peeked_));
  out.sent = sent_.substr(skip, static_cast<size_t>(peeked_) - skip);
  out.send_sequence = end - static_cast<uint32_t>(out.sent.size());
  out.unsent = std::min(static_cast<size_t>(std::max(unsent_ - (out.fin_sent ? 1 : 0), 0)), out.sent.size());

  out.received.resize(static_cast<size_t>(unread_));
  out.receive_sequence = next_ - (out.fin_received ? 1 : 0) - static_cast<uint32_t>(unread_);
  if (unread_ > 0 && ::recv(fd_, out.received.data(), out.received.size(), MSG_PEEK | MSG_DONTWAIT) != unread_) {
    fail(EIO, "a TCP connection: what is to be read is not there");
  }
  out.segment = segment_;
  if ((info_.tcpi_options & TCPI_OPT_WSCALE) != 0) out.scale.emplace(+info_.tcpi_snd_wscale, +info_.tcpi_rcv_wscale);
  out.sack = (info_.tcpi_options & TCPI_OPT_SACK) != 0;
  if ((info_.tcpi_options & TCPI_OPT_TIMESTAMPS) != 0) out.timestamp = timestamp_;
  out.window = window_;
  return out;
}

bool has_upper_protocol(int fd) {
  char name[16] = {};
  socklen_t size = sizeof name;
  return getsockopt(fd, IPPROTO_TCP, kUlp, name, &size) == 0 && size != 0 && name[0] != '\0';
}

}  // namespace

tcp_info tcp_info_of(int fd) {
  tcp_info info = {};
  socklen_t size = sizeof info;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) fail_errno("TCP_INFO");
  return info;
}

bool has_connection(const tcp_info& info) { return info.tcpi_state != TCP_LISTEN && info.tcpi_state != TCP_CLOSE; }

std::optional<std::string> refuse_tcp_connection(int fd, const tcp_info& info) {
  if (!kernel_has("TCP_REPAIR")) return "with a connection, which wants CAP_NET_ADMIN,";
  if (info.tcpi_state == TCP_SYN_SENT || info.tcpi_state == TCP_SYN_RECV) return "with a connection that is being made";
  pollfd events = {fd, POLLPRI, 0};
  ::poll(&events, 1, 0);
  if ((events.revents & POLLERR) != 0) return "with an error that is not read yet";
  if ((events.revents & POLLPRI) != 0) return "with urgent data";
  if (has_upper_protocol(fd)) return "with an upper layer protocol (TCP_ULP)";
  if (socket_option(fd, SOL_SOCKET, SO_PEEK_OFF).value_or(-1) >= 0) return "with SO_PEEK_OFF";
  if (socket_option(fd, IPPROTO_TCP, TCP_REPAIR).value_or(0) != 0) return "that is in repair (TCP_REPAIR)";
  return std::nullopt;
}

std::vector<std::optional<TcpConnection>> read_tcp_connections(std::span<const int> fds) {
  std::vector<Reading> all(fds.begin(), fds.end());
  for (Reading& one : all) one.prepare();
  auto read = [&all]() {
    for (Reading& one : all) one.begin();
    for (Reading& one : all) one.read_sending_half();
    for (Reading& one : all) one.read_receiving_half();
    for (Reading& one : all) one.end();
  };
  if (!all.empty()) outlive(read);
  std::vector<std::optional<TcpConnection>> out;
  for (Reading& one : all) out.push_back(one.understand());
  return out;
}

std::vector<TcpSocket> tcp_sockets_of(const CaptureContext& ctx) {
  std::vector<TcpSocket> out;
  std::set<ino_t> seen;
  const auto add = [&](const OpenFd& fd) {
    if (!S_ISSOCK(fd.st.st_mode) || !seen.insert(fd.st.st_ino).second) return;
    UniqueFd mine = ctx.take(fd);
    if (socket_option(mine.get(), SOL_SOCKET, SO_PROTOCOL) != IPPROTO_TCP) return;
    const tcp_info info = tcp_info_of(mine.get());
    if (has_connection(info) && info.tcpi_state != TCP_SYN_SENT) out.push_back({fd.st.st_ino, std::move(mine)});
  };
  for (const std::vector<OpenFd>* table : ctx.tree->tables) std::ranges::for_each(*table, add);
  if (ctx.queued != nullptr) std::ranges::for_each(ctx.queued->infos, add);
  return out;
}

const TcpConnection* tcp_connection_of(const CaptureContext& ctx, ino_t inode) {
  if (!ctx.tree->tcp_connections) {
    const std::vector<TcpSocket> sockets = tcp_sockets_of(ctx);
    std::vector<int> fds;
    for (const TcpSocket& socket : sockets) fds.push_back(socket.fd.get());
    auto connections = read_tcp_connections(fds);
    auto found = std::make_shared<std::map<ino_t, TcpConnection>>();
    for (size_t i = 0; i < sockets.size(); ++i) {
      if (connections[i]) found->emplace(sockets[i].inode, std::move(*connections[i]));
    }
    ctx.tree->tcp_connections = std::move(found);
  }
  const auto one = ctx.tree->tcp_connections->find(inode);
  return one == ctx.tree->tcp_connections->end() ? nullptr : &one->second;
}

}  // namespace ckpt
