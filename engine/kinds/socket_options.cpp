#include "engine/kinds/socket_options.h"

#include <linux/filter.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/base/hex.h"

namespace ckpt {

namespace {

struct NamedOption {
  const char* name;
  int number;
};

// include/uapi/asm-generic/socket.h; numbers where Debian 12's headers have no name yet. SO_PASSCRED comes last: from
// then on the kernel adds credentials to what is sent.
constexpr std::array kOptions = {
    NamedOption{"DEBUG", SO_DEBUG},
    NamedOption{"REUSEADDR", SO_REUSEADDR},
    NamedOption{"REUSEPORT", SO_REUSEPORT},
    NamedOption{"DONTROUTE", SO_DONTROUTE},
    NamedOption{"BROADCAST", SO_BROADCAST},
    NamedOption{"KEEPALIVE", SO_KEEPALIVE},
    NamedOption{"OOBINLINE", SO_OOBINLINE},
    NamedOption{"NO_CHECK", SO_NO_CHECK},
    NamedOption{"PRIORITY", SO_PRIORITY},
    NamedOption{"RCVLOWAT", SO_RCVLOWAT},
    NamedOption{"MARK", SO_MARK},
    NamedOption{"TIMESTAMP", SO_TIMESTAMP},
    NamedOption{"TIMESTAMPNS", SO_TIMESTAMPNS},
    NamedOption{"TIMESTAMPING", SO_TIMESTAMPING},
    NamedOption{"TIMESTAMP_NEW", 63},
    NamedOption{"TIMESTAMPNS_NEW", 64},
    NamedOption{"TIMESTAMPING_NEW", 65},
    NamedOption{"RXQ_OVFL", SO_RXQ_OVFL},
    NamedOption{"WIFI_STATUS", SO_WIFI_STATUS},
    NamedOption{"NOFCS", SO_NOFCS},
    NamedOption{"SELECT_ERR_QUEUE", SO_SELECT_ERR_QUEUE},
    NamedOption{"BUSY_POLL", SO_BUSY_POLL},
    NamedOption{"MAX_PACING_RATE", SO_MAX_PACING_RATE},
    NamedOption{"INCOMING_CPU", SO_INCOMING_CPU},
    NamedOption{"ZEROCOPY", 60},
    NamedOption{"PREFER_BUSY_POLL", 69},
    NamedOption{"TXREHASH", 74},
    NamedOption{"RCVMARK", 75},
    NamedOption{"RCVPRIORITY", 82},
    NamedOption{"BINDTOIFINDEX", 62},
    NamedOption{"PASSRIGHTS", 83},
    NamedOption{"PASSSEC", SO_PASSSEC},
    NamedOption{"PASSPIDFD", 76},
    NamedOption{"PASSCRED", SO_PASSCRED},
};
constexpr int kBufLock = 72;                     // SO_BUF_LOCK, Linux 5.14
constexpr int kTxtime = 61;                      // SO_TXTIME, with struct sock_txtime of linux/net_tstamp.h
struct SendTime {
  int32_t clock = 0;
  uint32_t flags = 0;
};
constexpr int kSndbufLocked = 1, kRcvbufLocked = 2;
constexpr uint64_t kMaxBuffer = INT32_MAX;

template <typename T>
std::optional<T> value_of(int fd, int name) {
  T value{};
  socklen_t size = sizeof value;
  if (getsockopt(fd, SOL_SOCKET, name, &value, &size) != 0 || size != sizeof value) return std::nullopt;
  return value;
}

UniqueFd similar_socket(int fd) {
  const auto domain = value_of<int>(fd, SO_DOMAIN), type = value_of<int>(fd, SO_TYPE), protocol = value_of<int>(fd, SO_PROTOCOL);
  if (!domain || !type || !protocol) fail_errno("socket: SO_DOMAIN");
  UniqueFd fresh(::socket(*domain, *type | SOCK_CLOEXEC, *protocol));
  if (!fresh) fail_errno("socket of the domain {}, type {}, protocol {}", *domain, *type, *protocol);
  return fresh;
}

/// The instructions of a classic filter; nothing where there is none. Error(EACCES) from an eBPF program.
std::vector<sock_filter> filter_of(int fd) {
  socklen_t count = 0;
  if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, nullptr, &count) != 0) fail_errno("SO_GET_FILTER");
  std::vector<sock_filter> program(count);
  if (count != 0 && getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, program.data(), &count) != 0) fail_errno("SO_GET_FILTER");
  return program;
}

void capture_buffer(int fd, int fresh, int name, int lock, const char* field, Record& out) {
  const auto now = value_of<int>(fd, name);
  const bool locked = (value_of<int>(fd, kBufLock).value_or(0) & lock) != 0;
  if (!now || (!locked && now == value_of<int>(fresh, name))) return;
  out.add(field, fmt::format("{}{}", *now, locked ? " locked" : ""));
}

void capture_timeout(int fd, int name, const char* field, Record& out) {
  const auto time = value_of<timeval>(fd, name);
  if (time && (time->tv_sec != 0 || time->tv_usec != 0)) out.add(field, fmt::format("{} {}", time->tv_sec, time->tv_usec));
}

template <typename T>
void set_option(int fd, int name, const T& value, const std::string& where, std::string_view field) {
  if (setsockopt(fd, SOL_SOCKET, name, &value, sizeof value) == 0) return;
  fail_errno("{}: setting the socket option {}", where, field);
}

/// The kernel doubles what it is given.
void set_buffer_size(int fd, int name, int force, uint64_t size, const std::string& where, std::string_view field) {
  const int half = static_cast<int>(size / 2);
  if (setsockopt(fd, SOL_SOCKET, force, &half, sizeof half) == 0) return;
  set_option(fd, name, half, where, field);
}

/// Without the field, the size of a new socket: the buffer may have been widened. Returns whether it is locked.
bool restore_buffer(int fd, const Record& record, const char* field, int name, int force) {
  const auto words = split_words(record.find(field).value_or(""));
  const auto size = words.empty() ? std::optional<uint64_t>(value_of<int>(similar_socket(fd).get(), name).value_or(0))
                                  : parse_u64(words[0]);
  if (!size || *size > kMaxBuffer || words.size() > 2 || (words.size() == 2 && words[1] != "locked")) {
    fail(EINVAL, "{}: {} is malformed", record.where(), field);
  }
  if (value_of<int>(fd, name) != static_cast<int>(*size)) set_buffer_size(fd, name, force, *size, record.where(), field);
  return words.size() == 2;
}

void restore_timeout(int fd, const Record& record, const char* field, int name) {
  if (!record.has(field)) return;
  const auto numbers = record.get_numbers(field, 2);
  if (numbers[0] > INT64_MAX || numbers[1] >= 1'000'000) fail(EINVAL, "{}: {} is malformed", record.where(), field);
  const timeval time = {static_cast<time_t>(numbers[0]), static_cast<suseconds_t>(numbers[1])};
  set_option(fd, name, time, record.where(), field);
}

void restore_filter(int fd, const Record& record) {
  if (!record.has("filter")) return;
  const auto bytes = from_hex(record.get("filter"));
  if (!bytes || bytes->size() % sizeof(sock_filter) != 0 || bytes->size() / sizeof(sock_filter) > BPF_MAXINSNS) {
    fail(EINVAL, "{}: filter is malformed", record.where());
  }
  std::vector<sock_filter> program(bytes->size() / sizeof(sock_filter));
  std::memcpy(program.data(), bytes->data(), bytes->size());
  const sock_fprog attached = {static_cast<unsigned short>(program.size()), program.data()};
  set_option(fd, SO_ATTACH_FILTER, attached, record.where(), "filter");
  if (record.get_u64_or("filter_locked", 0) != 0) set_option(fd, SO_LOCK_FILTER, 1, record.where(), "filter_locked");
}

/// Its number, or -1.
int option_number(std::string_view name) {
  for (const NamedOption& option : kOptions) {
    if (name == option.name) return option.number;
  }
  return -1;
}

}  // namespace

void restore_socket_user(int fd, const Record& record, const Caller& caller) {
  const auto ids = record.get_numbers("user", 2);
  if (ids[0] >= UINT32_MAX || ids[1] >= UINT32_MAX) fail(EINVAL, "{}: user is malformed", record.where());
  if (!caller.privileged()) return;
  if (::fchown(fd, static_cast<uid_t>(ids[0]), static_cast<gid_t>(ids[1])) != 0) fail_errno("{}: user", record.where());
}

std::optional<int> socket_option(int fd, int level, int name) {
  int value = 0;
  socklen_t size = sizeof value;
  if (getsockopt(fd, level, name, &value, &size) != 0 || size != sizeof value) return std::nullopt;
  return value;
}

std::optional<std::string> refuse_socket_options(int fd) {
  try {
    filter_of(fd);
  } catch (const Error& e) {
    if (e.err() != EACCES) throw;
    return "with a BPF program attached";
  }
  return std::nullopt;
}

void capture_socket_options(int fd, Record& out) {
  const UniqueFd fresh = similar_socket(fd);
  capture_buffer(fd, fresh.get(), SO_SNDBUF, kSndbufLocked, "sndbuf", out);
  capture_buffer(fd, fresh.get(), SO_RCVBUF, kRcvbufLocked, "rcvbuf", out);
  for (const NamedOption& option : kOptions) {
    const auto now = value_of<int>(fd, option.number);
    if (now && now != value_of<int>(fresh.get(), option.number)) out.add("option", fmt::format("{} {}", option.name, *now));
  }
  const auto linger_now = value_of<linger>(fd, SO_LINGER);
  if (linger_now && linger_now->l_onoff != 0) out.add("linger", fmt::format("{} {}", linger_now->l_onoff, linger_now->l_linger));
  capture_timeout(fd, SO_RCVTIMEO, "rcvtimeo", out);
  capture_timeout(fd, SO_SNDTIMEO, "sndtimeo", out);
  const auto send_time = value_of<SendTime>(fd, kTxtime);
  if (send_time && (send_time->clock != 0 || send_time->flags != 0)) {
    out.add("txtime", fmt::format("{} {}", send_time->clock, send_time->flags));
  }
  const std::vector<sock_filter> program = filter_of(fd);
  if (program.empty()) return;
  out.add("filter", to_hex(std::as_bytes(std::span(program))));
  if (value_of<int>(fd, SO_LOCK_FILTER).value_or(0) != 0) out.add("filter_locked", 1);
}

void restore_socket_buffers(int fd, const Record& record) {
  const bool sndbuf_locked = restore_buffer(fd, record, "sndbuf", SO_SNDBUF, SO_SNDBUFFORCE);
  const bool rcvbuf_locked = restore_buffer(fd, record, "rcvbuf", SO_RCVBUF, SO_RCVBUFFORCE);
  set_option(fd, kBufLock, (sndbuf_locked ? kSndbufLocked : 0) | (rcvbuf_locked ? kRcvbufLocked : 0), record.where(),
             "BUF_LOCK");
}

void restore_socket_options(int fd, const Record& record) {
  restore_socket_buffers(fd, record);
  for (const std::string& text : record.all("option")) {
    const auto words = split_words(text);
    const int number = words.size() == 2 ? option_number(words[0]) : -1;
    const auto value = words.size() == 2 ? parse_i64(words[1]) : std::nullopt;
    if (number < 0 || !value || *value > INT32_MAX || *value < INT32_MIN) {
      fail(EINVAL, "{}: the option '{}' is malformed", record.where(), escape(text));
    }
    set_option(fd, number, static_cast<int>(*value), record.where(), words[0]);
  }
  if (record.has("linger")) {
    const auto numbers = record.get_numbers("linger", 2);
    if (numbers[0] > 1 || numbers[1] > INT32_MAX) fail(EINVAL, "{}: linger is malformed", record.where());
    set_option(fd, SO_LINGER, linger{static_cast<int>(numbers[0]), static_cast<int>(numbers[1])}, record.where(), "linger");
  }
  restore_timeout(fd, record, "rcvtimeo", SO_RCVTIMEO);
  restore_timeout(fd, record, "sndtimeo", SO_SNDTIMEO);
  if (record.has("txtime")) {
    const auto numbers = record.get_numbers("txtime", 2);
    if (numbers[0] > INT32_MAX || numbers[1] > UINT32_MAX) fail(EINVAL, "{}: txtime is malformed", record.where());
    const SendTime time = {static_cast<int32_t>(numbers[0]), static_cast<uint32_t>(numbers[1])};
    set_option(fd, kTxtime, time, record.where(), "txtime");
  }
  restore_filter(fd, record);
}

void widen_socket_buffers(int fd, size_t bytes) {
  // Small messages take far more than their bytes; the limit is what an int holds.
  const int size = static_cast<int>(std::min<size_t>(bytes * 4 + (1 << 20), INT32_MAX / 2));
  for (const auto& [name, force] : {std::pair{SO_SNDBUF, SO_SNDBUFFORCE}, std::pair{SO_RCVBUF, SO_RCVBUFFORCE}}) {
    if (setsockopt(fd, SOL_SOCKET, force, &size, sizeof size) != 0) setsockopt(fd, SOL_SOCKET, name, &size, sizeof size);
  }
}

}  // namespace ckpt
