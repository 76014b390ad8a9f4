#include "engine/kinds/unix_record.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "engine/base/error.h"

namespace ckpt {

namespace {

constexpr std::array<std::pair<int, const char*>, 3> kTypes = {
    {{SOCK_STREAM, "stream"}, {SOCK_SEQPACKET, "seqpacket"}, {SOCK_DGRAM, "dgram"}}};
constexpr std::array<std::pair<UnixState, const char*>, 5> kStates = {{{UnixState::unconnected, "unconnected"},
                                                                       {UnixState::listening, "listening"},
                                                                       {UnixState::connected, "connected"},
                                                                       {UnixState::pending, "pending"},
                                                                       {UnixState::hung_up, "hung_up"}}};
constexpr size_t kMaxName = sizeof(sockaddr_un::sun_path);
constexpr size_t kMaxGroups = 65536;
constexpr size_t kMaxMessage = 1 << 30;
constexpr size_t kMaxPasses = 253;               // SCM_MAX_FD
constexpr uint64_t kMaxId = UINT32_MAX;

[[noreturn]] void malformed(const Record& record, std::string_view field, std::string_view value) {
  fail(EINVAL, "{}: {} '{}' is malformed", record.where(), field, escape(value));
}

template <typename Table>
auto name_in(const Table& table, const Record& record, const char* field) {
  const std::string text = record.get(field);
  for (const auto& [value, name] : table) {
    if (text == name) return value;
  }
  malformed(record, field, text);
}

template <typename Table, typename Value>
const char* name_of(const Table& table, Value wanted) {
  for (const auto& [value, name] : table) {
    if (value == wanted) return name;
  }
  return "?";
}

void add_name(Record& out, const std::string& prefix, const UnixName& name) {
  if (name.empty()) return;
  if (name.is_path()) {
    out.add(prefix + "path", name.bytes);
  } else {
    out.add(prefix + "abstract", name.bytes.substr(1));
  }
}

UnixName checked_name(const Record& record, std::string_view field, const std::string& value, bool path) {
  const UnixName name{path ? value : std::string(1, '\0') + value};
  if (name.bytes.size() > kMaxName || (path && (value.empty() || value.find('\0') != std::string::npos))) {
    malformed(record, field, value);
  }
  return name;
}

UnixName parse_name(const Record& record, const std::string& prefix) {
  if (const auto path = record.find(prefix + "path")) return checked_name(record, prefix + "path", *path, true);
  if (const auto text = record.find(prefix + "abstract")) return checked_name(record, prefix + "abstract", *text, false);
  return {};
}

std::string shown(const UnixCred& cred) {
  std::string text = fmt::format("{} {} {}", cred.pid, cred.uid, cred.gid);
  for (const gid_t group : cred.groups) text += fmt::format(" {}", group);
  return text;
}

UnixCred parse_cred(const Record& record, std::string_view field, const std::string& text, bool groups) {
  UnixCred cred;
  std::vector<uint32_t> numbers;
  for (const std::string& word : split_words(text)) {
    const auto number = parse_u64(word);
    if (!number || *number > kMaxId || numbers.size() > kMaxGroups) malformed(record, field, text);
    numbers.push_back(static_cast<uint32_t>(*number));
  }
  if (numbers.size() < 3 || (numbers.size() > 3 && !groups) || numbers[0] > INT32_MAX) malformed(record, field, text);
  cred.pid = static_cast<pid_t>(numbers[0]);
  cred.uid = numbers[1];
  cred.gid = numbers[2];
  cred.groups.assign(numbers.begin() + 3, numbers.end());
  return cred;
}

/// The name of an object as it may stand in a path of the image.
std::string checked_object(const Record& record, std::string_view field, const std::string& name, std::string_view prefix) {
  const auto number = name.starts_with(prefix) ? parse_u64(name.substr(prefix.size())) : std::nullopt;
  if (!number || fmt::format("{}{}", prefix, *number) != name) malformed(record, field, name);
  return name;
}

std::vector<std::string> parse_passes(const Record& record, const std::string& text) {
  std::vector<std::string> passes = split_words(text);
  if (passes.empty() || passes.size() > kMaxPasses) malformed(record, "passes", text);
  for (const std::string& word : passes) checked_object(record, "passes", word, word.starts_with("fd-") ? "fd-" : "queued-");
  return passes;
}

void parse_messages(const Record& record, std::vector<UnixMessage>& messages) {
  size_t total = 0;
  for (const auto& [field, value] : record.lines()) {
    if (field == "message") {
      const auto size = parse_u64(value);
      if (!size || *size > kMaxMessage - total) malformed(record, field, value);
      total += *size;
      messages.push_back({.size = *size, .cred = {}, .from = {}, .passes = {}});
      continue;
    }
    const bool of_message = field == "cred" || field == "passes" || field.starts_with("from_");
    if (!of_message) continue;
    if (messages.empty()) malformed(record, field, value);
    UnixMessage& message = messages.back();
    if (field == "cred") message.cred = parse_cred(record, field, value, false);
    if (field == "passes") message.passes = parse_passes(record, value);
    if (field == "from_path" || field == "from_abstract") {
      message.from = checked_name(record, field, value, field == "from_path");
    }
  }
}

void parse_shutdown(const Record& record, UnixSocket& out) {
  const std::string text = record.find("shutdown").value_or("");
  if (text != "" && text != "read" && text != "write" && text != "both") malformed(record, "shutdown", text);
  out.shut_read = text == "read" || text == "both";
  out.shut_write = text == "write" || text == "both";
}

void parse_file(const Record& record, UnixSocket& out) {
  const auto text = record.find("file");
  if (!text) return;
  const auto words = split_words(*text);
  const auto uid = words.size() == 3 ? parse_u64(words[1]) : std::nullopt;
  const auto gid = words.size() == 3 ? parse_u64(words[2]) : std::nullopt;
  if (!uid || !gid || *uid > kMaxId || *gid > kMaxId || words[0].size() > 8) malformed(record, "file", *text);
  mode_t mode = 0;
  for (const char c : words[0]) {
    if (c < '0' || c > '7') malformed(record, "file", *text);
    mode = mode * 8 + static_cast<mode_t>(c - '0');
  }
  if (!S_ISSOCK(mode) || !out.name.is_path()) malformed(record, "file", *text);
  out.file = SocketFile{mode & 07777, static_cast<uid_t>(*uid), static_cast<gid_t>(*gid)};
}

void check(const Record& record, const UnixSocket& s) {
  const auto contradiction = [&](const char* what) { fail(EINVAL, "{}: {}", record.where(), what); };
  const bool has_peer = s.state == UnixState::connected || s.state == UnixState::pending;
  if (has_peer == s.peer.empty()) contradiction("the state and the peer do not fit");
  if (s.state == UnixState::listening && (!s.is_stream() || s.name.empty())) contradiction("it cannot be listening");
  if (s.state == UnixState::pending && !s.is_stream()) contradiction("a datagram socket is never pending");
  if (!s.pending.empty() && s.state != UnixState::listening) contradiction("only a listening socket has connections pending");
  if (s.accepted && (s.name.empty() || !s.is_stream())) contradiction("it cannot have been accepted");
}

}  // namespace

std::string UnixName::shown() const {
  return is_path() ? bytes : "@" + escape(std::string_view(bytes).substr(std::min<size_t>(bytes.size(), 1)));
}

bool UnixSocket::is_stream() const { return type != SOCK_DGRAM; }

void UnixSocket::write(Record& out) const {
  out.add("socket", name_of(kTypes, type));
  out.add("state", name_of(kStates, state));
  if (!peer.empty()) out.add("peer", peer);
  add_name(out, "", name);
  if (accepted) out.add("accepted", 1);
  if (file) out.add("file", fmt::format("{:#o} {} {}", S_IFSOCK | file->mode, file->uid, file->gid));
  add_name(out, "peer_", peer_name);
  if (state == UnixState::listening) out.add("backlog", uint64_t{backlog});
  for (const std::string& object : pending) out.add("pending", object);
  if (peercred) out.add("peercred", ckpt::shown(*peercred));
  if (shut_read || shut_write) out.add("shutdown", !shut_write ? "read" : !shut_read ? "write" : "both");
  if (reset) out.add("reset", 1);
  if (peek_off >= 0) out.add("peek_off", peek_off);
  out.add("user", fmt::format("{} {}", uid, gid));
  for (const UnixMessage& message : messages) {
    out.add("message", uint64_t{message.size});
    if (message.cred) out.add("cred", ckpt::shown(*message.cred));
    add_name(out, "from_", message.from);
    if (!message.passes.empty()) out.add("passes", fmt::format("{}", fmt::join(message.passes, " ")));
  }
}

UnixSocket UnixSocket::parse(const Record& record) {
  UnixSocket out;
  out.type = name_in(kTypes, record, "socket");
  out.state = name_in(kStates, record, "state");
  if (const auto peer = record.find("peer")) out.peer = checked_object(record, "peer", *peer, "unix-");
  out.name = parse_name(record, "");
  out.peer_name = parse_name(record, "peer_");
  out.accepted = record.get_u64_or("accepted", 0) != 0;
  parse_file(record, out);
  out.backlog = static_cast<unsigned>(record.has("backlog") ? record.get_u64("backlog", INT32_MAX) : 0);
  for (const std::string& name : record.all("pending")) out.pending.push_back(checked_object(record, "pending", name, "unix-"));
  if (const auto cred = record.find("peercred")) out.peercred = parse_cred(record, "peercred", *cred, true);
  parse_shutdown(record, out);
  out.reset = record.get_u64_or("reset", 0) != 0;
  out.peek_off = record.has("peek_off") ? static_cast<int>(record.get_u64("peek_off", INT32_MAX)) : -1;
  const auto user = record.get_numbers("user", 2);
  if (user[0] > kMaxId || user[1] > kMaxId) malformed(record, "user", record.get("user"));
  out.uid = static_cast<uid_t>(user[0]);
  out.gid = static_cast<gid_t>(user[1]);
  parse_messages(record, out.messages);
  check(record, out);
  return out;
}

}  // namespace ckpt
