// A TCP connection in an image.
#include "engine/kinds/tcp_connection.h"

#include "engine/base/error.h"

namespace ckpt {

namespace {

constexpr uint64_t kMaxScale = 14;               // RFC 7323
constexpr uint64_t kMaxSegment = 65535;
constexpr uint64_t kMaxContent = 1 << 30;        // a window of TCP

std::string content_of(const ImageSource& image, const std::string& path) {
  return image.has(path) ? image.read(path, kMaxContent) : "";
}

}  // namespace

void capture_tcp_connection(const CaptureContext& ctx, const std::string& object, const TcpConnection& connection,
                            Record& out) {
  const TcpConnection& c = connection;
  out.add("sequence", fmt::format("{} {}", c.send_sequence, c.receive_sequence));
  if (c.unsent != 0) out.add("unsent", uint64_t{c.unsent});
  out.add("segment", c.segment);
  if (c.scale) out.add("scale", fmt::format("{} {}", c.scale->first, c.scale->second));
  if (c.sack) out.add("sack", 1);
  if (c.timestamp) out.add("timestamp", *c.timestamp);
  const tcp_repair_window& w = c.window;
  out.add("window", fmt::format("{} {} {} {} {}", w.snd_wl1, w.snd_wnd, w.max_window, w.rcv_wnd, w.rcv_wup));
  if (c.fin_received || c.fin_sent) out.add("fin", !c.fin_sent ? "received" : !c.fin_received ? "sent" : "both");
  if (c.shut_read) out.add("shut_read", 1);
  if (!c.sent.empty()) ctx.image->put("objects/" + object + ".sent", c.sent);
  if (!c.received.empty()) ctx.image->put("objects/" + object + ".received", c.received);
}

TcpConnection parse_tcp_connection(const ImageSource& image, const std::string& object, const Record& record) {
  TcpConnection c;
  const auto numbers = [&](const char* field, size_t count, uint64_t max) {
    std::vector<uint64_t> all = record.get_numbers(field, count);
    for (const uint64_t number : all) {
      if (number > max) fail(EINVAL, "{}: {} is malformed", record.where(), field);
    }
    return all;
  };
  const auto sequence = numbers("sequence", 2, UINT32_MAX);
  c.send_sequence = static_cast<uint32_t>(sequence[0]);
  c.receive_sequence = static_cast<uint32_t>(sequence[1]);
  c.sent = content_of(image, "objects/" + object + ".sent");
  c.received = content_of(image, "objects/" + object + ".received");
  c.unsent = record.get_u64_or("unsent", 0);
  if (c.unsent > c.sent.size()) fail(EINVAL, "{}: unsent is malformed", record.where());
  c.segment = static_cast<uint32_t>(record.get_u64("segment", kMaxSegment));
  if (record.has("scale")) {
    const auto scale = numbers("scale", 2, kMaxScale);
    c.scale.emplace(static_cast<unsigned>(scale[0]), static_cast<unsigned>(scale[1]));
  }
  c.sack = record.get_u64_or("sack", 0) != 0;
  if (record.has("timestamp")) c.timestamp = static_cast<uint32_t>(record.get_u64("timestamp", UINT32_MAX));
  const auto window = numbers("window", 5, UINT32_MAX);
  const auto w = [&](size_t i) { return static_cast<uint32_t>(window[i]); };
  c.window = {w(0), w(1), w(2), w(3), w(4)};
  const std::string fin = record.find("fin").value_or("");
  if (!fin.empty() && fin != "received" && fin != "sent" && fin != "both") fail(EINVAL, "{}: fin is malformed", record.where());
  c.fin_received = fin == "received" || fin == "both";
  c.fin_sent = fin == "sent" || fin == "both";
  c.shut_read = record.get_u64_or("shut_read", 0) != 0;
  return c;
}

}  // namespace ckpt
