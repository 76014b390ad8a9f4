// TCP connections. The lines of objects/inet-N that one adds (see inet_socket.h):
//
//   sequence 305419896 4026531840   numbers of the first byte of .sent, and of the first byte of .received
//   unsent 1000                     so many bytes at the end of .sent have not been sent yet
//   segment 1460                    the largest that the peer takes (MSS), bytes
//   scale 7 10                      window scales, the peer's and its own; absent where there are none
//   sack 1                          selective acknowledgements
//   timestamp 123456                of TCP's own clock; absent where segments have none
//   window A B C D E                TCP_REPAIR_WINDOW: snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup
//   fin received|sent|both          what has been closed: by the peer, by itself
//   shut_read 1                     shutdown(2) of its receiving half
//   held ckptfs-1234-17d3a8f2c41    what its peer sends is dropped by this table of nf_tables, which ends with the resume
//
//   objects/inet-N.sent             what the peer has not acknowledged
//   objects/inet-N.received         what has not been read
//
// All of it by TCP_REPAIR (CAP_NET_ADMIN; net/ipv4/tcp.c), by which a socket is connected again without a packet. What it
// does not tell is found out anew: round-trip times, congestion, what has come out of order.
#pragma once

#include <netinet/tcp.h>

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/kinds/kind.h"

namespace ckpt {

/// As of one moment in which nobody writes or reads it. Sequence numbers wrap around.
struct TcpConnection {
  uint32_t send_sequence = 0, receive_sequence = 0;
  std::string sent, received;
  size_t unsent = 0;
  uint32_t segment = 0;
  std::optional<std::pair<unsigned, unsigned>> scale;
  bool sack = false;
  std::optional<uint32_t> timestamp;
  tcp_repair_window window = {};
  bool fin_received = false, fin_sent = false, shut_read = false;
};

/// TCP_INFO. For a socket that listens tcpi_unacked are the connections that wait, tcpi_sacked the backlog
/// (tcp_get_info()). Throws Error.
tcp_info tcp_info_of(int fd);
/// Connected in any way, half-closed ones as well.
bool has_connection(const tcp_info& info);

/// Why the connection cannot be kept ("with urgent data"), or nothing.
std::optional<std::string> refuse_tcp_connection(int fd, const tcp_info& info);

/// Reads connections of stopped processes, of which `fds` are our duplicates. While they are read they are in repair, which
/// ends even if we are killed. All that is to be sent is read before anything that was received: so of two ends of one
/// connection nothing is missing, whatever is still under way. Nothing for one that has ended. Throws Error.
std::vector<std::optional<TcpConnection>> read_tcp_connections(std::span<const int> fds);

struct TcpSocket {
  ino_t inode = 0;
  UniqueFd fd;                   ///< our duplicate
};
/// Every socket of the checkpoint that has a connection. The processes must be stopped. Throws Error.
std::vector<TcpSocket> tcp_sockets_of(const CaptureContext& ctx);

/// That of a socket. Those of the whole checkpoint are read when the first one is asked for. Null where it has ended.
/// Throws Error.
const TcpConnection* tcp_connection_of(const CaptureContext& ctx, ino_t inode);

/// Adds its lines, and puts its content into the image.
void capture_tcp_connection(const CaptureContext& ctx, const std::string& object, const TcpConnection& connection,
                            Record& out);

/// The same lines and content read. Throws Error(EINVAL).
TcpConnection parse_tcp_connection(const ImageSource& image, const std::string& object, const Record& record);

/// Connects a new socket, whose options are set, from `local` to `peer` of its record, with the rights of the calling
/// thread (AsCaller). It goes to work among the last steps of the resume (RestoreContext::last), and vanishes without a
/// packet if the resume fails before. Throws Error: EPERM, EADDRNOTAVAIL, EINVAL.
void restore_tcp_connection(const RestoreContext& ctx, int fd, const std::string& object, const Record& record, int domain);

}  // namespace ckpt
