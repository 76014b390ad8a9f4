// A TCP connection made again.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "engine/base/error.h"
#include "engine/kinds/inet_address.h"
#include "engine/kinds/peer_hold.h"
#include "engine/kinds/socket_options.h"
#include "engine/kinds/tcp_connection.h"
#include "engine/kinds/tcp_segment.h"

namespace ckpt {

namespace {

using namespace std::chrono_literals;

// Of one message into a queue under repair the kernel makes one buffer (tcp_send_rcvq()).
constexpr size_t kPiece = 32 << 10;
constexpr auto kOldOneEnds = 2s;                 // how long the kernel may take to forget the connection of old
constexpr auto kFinArrives = 5s;                 // over the loopback device

void set(int fd, int name, const auto& value, const std::string& where, const char* what) {
  if (setsockopt(fd, IPPROTO_TCP, name, &value, sizeof value) != 0) fail_errno("{}: {}", where, what);
}

void fill_queue(int fd, int queue, std::string_view content, const std::string& where) {
  if (content.empty()) return;
  set(fd, TCP_REPAIR_QUEUE, queue, where, "TCP_REPAIR_QUEUE");
  while (!content.empty()) {
    const ssize_t n = ::send(fd, content.data(), std::min(content.size(), kPiece), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n <= 0) fail_errno("{}: its {} queue", where, queue == TCP_SEND_QUEUE ? "sending" : "receiving");
    content.remove_prefix(static_cast<size_t>(n));
  }
}

/// Two sockets of the same names: what the old one has still to do, when the processes have ended, is done soon.
void connect_silently(int fd, const InetAddress& peer, const std::string& where) {
  const auto limit = std::chrono::steady_clock::now() + kOldOneEnds;
  while (::connect(fd, peer.get(), peer.size) != 0) {
    const bool in_use = errno == EADDRNOTAVAIL && std::chrono::steady_clock::now() < limit;
    if (!in_use) fail_errno("{}: connecting to {} again", where, peer.text());
    std::this_thread::sleep_for(5ms);
  }
}

void set_negotiated(int fd, const TcpConnection& c, const std::string& where) {
  std::vector<tcp_repair_opt> options = {{TCPOPT_MAXSEG, c.segment}};
  if (c.scale) options.push_back({TCPOPT_WINDOW, c.scale->first | c.scale->second << 16});
  if (c.sack) options.push_back({TCPOPT_SACK_PERMITTED, 0});
  if (c.timestamp) options.push_back({TCPOPT_TIMESTAMP, 0});
  const auto size = static_cast<socklen_t>(options.size() * sizeof options[0]);
  if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, options.data(), size) != 0) fail_errno("{}: TCP_REPAIR_OPTIONS", where);
  if (c.timestamp) set(fd, TCP_TIMESTAMP, *c.timestamp, where, "TCP_TIMESTAMP");
}

/// A FIN that has come is delivered again afterwards: it is not counted here.
void set_window(int fd, const TcpConnection& c, const std::string& where) {
  tcp_repair_window window = c.window;
  const uint32_t next = c.receive_sequence + static_cast<uint32_t>(c.received.size());
  if (static_cast<int32_t>(window.rcv_wup - next) > 0) window.rcv_wup = next;
  set(fd, TCP_REPAIR_WINDOW, window, where, "TCP_REPAIR_WINDOW");
  // The size of segments was reckoned when it was connected, before the peer's was known; setting no options of IP reckons it
  // again (do_ip_setsockopt()).
  setsockopt(fd, IPPROTO_IP, IP_OPTIONS, nullptr, 0);
}

struct Revival {
  UniqueFd fd;
  TcpConnection connection;
  InetAddress local, peer;
  Record record;
  int reuse = 0;

  void run() const;
  void receive_fin() const;
};

void Revival::receive_fin() const {
  const TcpConnection& c = connection;
  const uint32_t next = c.receive_sequence + static_cast<uint32_t>(c.received.size());
  const uint32_t window = std::min<uint32_t>(c.window.snd_wnd >> (c.scale ? c.scale->first : 0), UINT16_MAX);
  deliver_fin(peer.unmapped(), local.unmapped(), next, c.send_sequence, static_cast<uint16_t>(window));
  const auto limit = std::chrono::steady_clock::now() + kFinArrives;
  while (tcp_info_of(fd.get()).tcpi_state == TCP_ESTABLISHED) {
    if (std::chrono::steady_clock::now() > limit) {
      fail(EIO, "{}: the end of what {} sends does not come through the loopback device", record.where(), peer.text());
    }
    std::this_thread::sleep_for(1ms);
  }
}

void Revival::run() const {
  const std::string& where = record.where();
  set(fd.get(), TCP_REPAIR_QUEUE, int{TCP_NO_QUEUE}, where, "TCP_REPAIR_QUEUE");
  // With a probe of the peer's window, which starts the exchange again; but one that has said everything may have gone, and
  // would answer with a reset.
  set(fd.get(), TCP_REPAIR, connection.fin_received ? TCP_REPAIR_OFF_NO_WP : TCP_REPAIR_OFF, where, "TCP_REPAIR");
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
  if (connection.fin_received) receive_fin();
  std::string_view unsent = connection.sent;
  unsent.remove_prefix(unsent.size() - connection.unsent);
  while (!unsent.empty()) {
    const ssize_t n = ::send(fd.get(), unsent.data(), unsent.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    // The peer may have ended it already: the process will be told.
    if (n < 0 && (errno == EPIPE || errno == ECONNRESET)) break;
    if (n <= 0) fail_errno("{}: what has not been sent yet", where);
    unsent.remove_prefix(static_cast<size_t>(n));
  }
  // Where the peer has it already, it is acknowledged once more.
  if (connection.fin_sent) ::shutdown(fd.get(), SHUT_WR);
  if (connection.shut_read) ::shutdown(fd.get(), SHUT_RD);
  restore_socket_buffers(fd.get(), record);
}

/// Once for all connections.
void end_hold_at_last(const RestoreContext& ctx, const Record& record) {
  const auto name = record.find("held");
  if (!name) return;
  if (!is_hold_name(*name)) fail(EINVAL, "{}: held is malformed", record.where());
  if (ctx.objects->emplace("held " + *name, UniqueFd()).second) ctx.last->push_back([name = *name] { end_peer_hold(name); });
}

}  // namespace

void restore_tcp_connection(const RestoreContext& ctx, int fd, const std::string& object, const Record& record, int domain) {
  const std::string& where = record.where();
  auto revival = std::make_shared<Revival>();
  revival->connection = parse_tcp_connection(*ctx.image, object, record);
  revival->local = parse_address(record, "local", domain);
  revival->peer = parse_address(record, "peer", domain);
  revival->record = record;
  revival->reuse = socket_option(fd, SOL_SOCKET, SO_REUSEADDR).value_or(0);
  const TcpConnection& c = revival->connection;
  end_hold_at_last(ctx, record);

  set(fd, TCP_REPAIR, int{TCP_REPAIR_ON}, where, "TCP_REPAIR, which wants CAP_NET_ADMIN");
  set(fd, TCP_REPAIR_QUEUE, int{TCP_SEND_QUEUE}, where, "TCP_REPAIR_QUEUE");
  set(fd, TCP_QUEUE_SEQ, c.send_sequence, where, "TCP_QUEUE_SEQ");
  set(fd, TCP_REPAIR_QUEUE, int{TCP_RECV_QUEUE}, where, "TCP_REPAIR_QUEUE");
  set(fd, TCP_QUEUE_SEQ, c.receive_sequence, where, "TCP_QUEUE_SEQ");
  const InetAddress& local = revival->local;
  if (::bind(fd, local.get(), local.size) != 0) fail_errno("{}: bind to {}", where, local.text());
  connect_silently(fd, revival->peer, where);
  set_negotiated(fd, c, where);
  widen_socket_buffers(fd, c.sent.size() + c.received.size());
  fill_queue(fd, TCP_RECV_QUEUE, c.received, where);
  fill_queue(fd, TCP_SEND_QUEUE, std::string_view(c.sent).substr(0, c.sent.size() - c.unsent), where);
  set_window(fd, c, where);

  revival->fd.reset(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!revival->fd) fail_errno("{}: dup", where);
  ctx.last->push_back([revival] { revival->run(); });
}

}  // namespace ckpt
