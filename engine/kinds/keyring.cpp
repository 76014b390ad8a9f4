#include "engine/kinds/keyring.h"

#include <linux/keyctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>

#include "engine/base/error.h"

namespace ckpt {

namespace {

constexpr std::string_view kUsers = "user";
constexpr size_t kMaxKeys = 256;
constexpr size_t kMaxDescription = 1024;

constexpr uint64_t id(int special) { return static_cast<uint64_t>(static_cast<int64_t>(special)); }

/// No keys in this kernel, or somebody who keeps us from them (seccomp of a container).
bool without_keys(long result) { return result == -ENOSYS || result == -EPERM || result == -EACCES; }

/// "user;1000;1000;3f010000;the name" of keyctl_describe(3): the type and the name.
struct Key {
  std::string type, name;
};

std::optional<Key> describe(Remote& thread, uint64_t key) {
  const long size = thread.syscall(SYS_keyctl, KEYCTL_DESCRIBE, key, thread.scratch().addr, kMaxDescription);
  if (size <= 0 || static_cast<size_t>(size) > kMaxDescription) return std::nullopt;
  std::string text(static_cast<size_t>(size), '\0');
  thread.read(thread.scratch(), std::as_writable_bytes(std::span(text)));
  text.resize(text.find('\0') == std::string::npos ? text.size() : text.find('\0'));
  size_t at = 0;
  for (int fields = 0; fields < 4; ++fields) {
    at = text.find(';', at);
    if (at++ == std::string::npos) return std::nullopt;
  }
  return Key{text.substr(0, text.find(';')), text.substr(at)};
}

/// The keys of a keyring; nothing where it cannot be read.
std::optional<std::vector<uint32_t>> read_keyring(Remote& thread, uint64_t keyring) {
  std::array<uint32_t, kMaxKeys> keys{};
  const long size = thread.syscall(SYS_keyctl, KEYCTL_READ, keyring, thread.scratch().addr, sizeof keys);
  if (size < 0) return std::nullopt;
  const size_t count = std::min(static_cast<size_t>(size) / sizeof(uint32_t), keys.size());
  thread.read(thread.scratch(), std::as_writable_bytes(std::span(keys).first(count)));
  return std::vector<uint32_t>(keys.begin(), keys.begin() + static_cast<ptrdiff_t>(count));
}

/// "_uid_ses.1000", "_uid.1000": see process_keys.c in security/keys.
bool is_of_user(const Key& key, std::string_view prefix) {
  return key.type == "keyring" && key.name.starts_with(prefix) && parse_u64(std::string_view(key.name).substr(prefix.size()));
}

constexpr Question keyring_id(int special) {
  return {"keyctl(KEYCTL_GET_KEYRING_ID)", SYS_keyctl, {KEYCTL_GET_KEYRING_ID, id(special), 0}};
}

void refuse_keys(Remote& thread, const Questions& answers, int special, const char* whose) {
  const long keyring = answers.result(keyring_id(special));
  if (keyring <= 0) return;
  const auto keys = read_keyring(thread, static_cast<uint64_t>(keyring));
  if (keys && keys->empty()) return;
  fail(EOPNOTSUPP, "{}: thread {}: keys in a keyring of the {} cannot be checkpointed", thread.pid(), thread.tid(), whose);
}

/// The value of session_keyring; with a '+' in front where it links the user's keyring. Empty for none that can be told.
std::string look_at_session(Remote& thread, const Questions& answers) {
  const long keyring = answers.result(keyring_id(KEY_SPEC_SESSION_KEYRING));
  if (without_keys(keyring)) return "";
  if (keyring == -ENOKEY) return std::string(kUsers);  // of one who does not ask, so that none is made (told_remote.h)
  if (keyring <= 0) return "0";  // revoked or expired
  const auto serial = static_cast<uint64_t>(keyring);
  const auto session = describe(thread, serial);
  if (session && is_of_user(*session, "_uid_ses.")) return std::string(kUsers);
  bool linked = false;
  if (const auto keys = read_keyring(thread, serial)) {
    for (const uint32_t key : *keys) {
      const auto known = describe(thread, key);
      linked = linked || (known && is_of_user(*known, "_uid."));
    }
  }
  return (linked ? "+" : "") + fmt::format("{}{}{}", serial, session ? " " : "", session ? session->name : "");
}

}  // namespace

void ask_keyrings(Questions& questions) {
  for (const int special : {KEY_SPEC_THREAD_KEYRING, KEY_SPEC_PROCESS_KEYRING, KEY_SPEC_SESSION_KEYRING}) {
    questions.ask(keyring_id(special));
  }
}

void capture_keyrings(const CaptureContext& ctx, Remote& thread, const Questions& answers, Record& out) {
  refuse_keys(thread, answers, KEY_SPEC_THREAD_KEYRING, "thread");
  // The others are those of the whole process, as far as programs that know what they do are concerned.
  const std::string key = fmt::format("keyring of {}", ctx.pid);
  auto known = ctx.objects->find(key);
  if (known == ctx.objects->end()) {
    refuse_keys(thread, answers, KEY_SPEC_PROCESS_KEYRING, "process");
    known = ctx.objects->emplace(key, look_at_session(thread, answers)).first;
  }
  const std::string& session = known->second;
  if (session.empty()) return;
  const bool linked = session.front() == '+';
  out.add("session_keyring", session.substr(linked ? 1 : 0));
  if (linked) out.add("links_user_keyring", 1);
}

std::string recorded_session_keyring(const Record& record) { return record.find("session_keyring").value_or(""); }

void make_session_keyring(Remote& leader, const Record& record, const std::optional<std::string>& maker) {
  const std::string own = recorded_session_keyring(record);
  if (own == kUsers || maker == own) return;
  const long made = leader.syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0);
  if (without_keys(made)) return;
  if (made < 0) fail(static_cast<int>(-made), "{}: a session keyring: {}", leader.pid(), errno_text(static_cast<int>(-made)));
  const auto first = [&](std::string_view field) {
    const auto words = split_words(record.get(field));
    const auto number = words.empty() ? std::nullopt : parse_u64(words[0]);
    if (!number || *number >= UINT32_MAX) fail(EINVAL, "{}: {} is malformed", record.where(), field);
    return *number;
  };
  leader.call("keyctl(KEYCTL_CHOWN)", SYS_keyctl, KEYCTL_CHOWN, static_cast<uint64_t>(made), first("uid"), first("gid"));
}

void restore_keyrings(const RestoreContext&, Remote& thread, const Record& record) {
  if (recorded_session_keyring(record) != kUsers) {
    if (record.get_u64_or("links_user_keyring", 0) == 0 || thread.tid() != thread.pid()) return;
    thread.syscall(SYS_keyctl, KEYCTL_LINK, id(KEY_SPEC_USER_KEYRING), id(KEY_SPEC_SESSION_KEYRING));
    return;
  }
  const auto uids = split_words(record.get("uid"));
  // Known by the real uid, and joined by the filesystem's: where they differ it would be another, and is a new one.
  RemotePtr name{};
  if (uids.size() == 4 && uids[0] == uids[3] &&
      thread.syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, id(KEY_SPEC_USER_SESSION_KEYRING), 1) > 0) {
    name = thread.put_string("_uid_ses." + uids[0]);
  }
  const long joined = thread.syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.addr);
  if (joined >= 0 || without_keys(joined)) return;
  fail(static_cast<int>(-joined), "{}: its session keyring: {}", record.where(), errno_text(static_cast<int>(-joined)));
}

}  // namespace ckpt
