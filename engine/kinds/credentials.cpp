#include "engine/kinds/credentials.h"

#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>

#include "engine/base/error.h"
#include "engine/kinds/seccomp.h"
#include "engine/process/proc_status.h"

namespace ckpt {

namespace {

struct Credentials {
  std::array<uint32_t, 4> uid{};  // real, effective, saved, filesystem
  std::array<uint32_t, 4> gid{};
  std::vector<gid_t> groups;
  uint64_t inheritable = 0, permitted = 0, effective = 0, bounding = 0, ambient = 0;
  uint64_t securebits = 0;
  bool no_new_privs = false;
  bool operator==(const Credentials&) const = default;
};

std::array<uint32_t, 4> parse_ids(std::string_view text, const std::string& where) {
  const auto words = split_words(text);
  std::array<uint32_t, 4> ids{};
  if (words.size() != ids.size()) fail(EINVAL, "{}: '{}' is not four ids", where, text);
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto id = parse_u64(words[i]);
    // (uid_t)-1 would mean "leave as it is" to the kernel: the stub's own, which is root's.
    if (!id || *id >= UINT32_MAX) fail(EINVAL, "{}: '{}' is not an id", where, words[i]);
    ids[i] = static_cast<uint32_t>(*id);
  }
  return ids;
}

std::vector<gid_t> parse_groups(std::string_view text, const std::string& where) {
  std::vector<gid_t> groups;
  for (const std::string& word : split_words(text)) {
    const auto id = parse_u64(word);
    if (!id || *id >= UINT32_MAX) fail(EINVAL, "{}: '{}' is not a group", where, word);
    groups.push_back(static_cast<gid_t>(*id));
  }
  if (groups.size() > 65536) fail(EINVAL, "{}: more than 65536 groups", where);
  return groups;
}

Credentials parse_record(const Record& record) {
  const std::string& where = record.where();
  Credentials c;
  c.uid = parse_ids(record.get("uid"), where);
  c.gid = parse_ids(record.get("gid"), where);
  c.groups = parse_groups(record.find("groups").value_or(""), where);
  c.inheritable = record.get_u64("cap_inheritable");
  c.permitted = record.get_u64("cap_permitted");
  c.effective = record.get_u64("cap_effective");
  c.bounding = record.get_u64("cap_bounding");
  c.ambient = record.get_u64("cap_ambient");
  c.securebits = record.get_u64("securebits", SECURE_ALL_BITS | SECURE_ALL_LOCKS);
  c.no_new_privs = record.get_u64("no_new_privs", 1) == 1;
  return c;
}

constexpr Question kSecurebits{"prctl(PR_GET_SECUREBITS)", SYS_prctl, {PR_GET_SECUREBITS}};

std::string status_path(const Remote& thread) { return fmt::format("/proc/{}/task/{}/status", thread.pid(), thread.tid()); }

Credentials of_thread(const Remote& thread, const std::string& text, long securebits) {
  const std::string path = status_path(thread);
  const auto caps = [&](std::string_view name) { return parse_u64("0x" + status_field(text, name)).value_or(0); };
  Credentials c;
  c.uid = parse_ids(status_field(text, "Uid"), path);
  c.gid = parse_ids(status_field(text, "Gid"), path);
  c.groups = parse_groups(status_field(text, "Groups"), path);
  c.inheritable = caps("CapInh");
  c.permitted = caps("CapPrm");
  c.effective = caps("CapEff");
  c.bounding = caps("CapBnd");
  c.ambient = caps("CapAmb");
  c.no_new_privs = status_field(text, "NoNewPrivs") == "1";
  c.securebits = static_cast<uint64_t>(securebits);
  return c;
}

Credentials of_thread(Remote& thread) {
  return of_thread(thread, read_file(status_path(thread)), thread.call(kSecurebits.name, kSecurebits.nr, kSecurebits.args[0]));
}

std::string join(const auto& ids) { return fmt::format("{}", fmt::join(ids, " ")); }

void set_groups(Remote& thread, const std::vector<gid_t>& groups) {
  // setgroups(2) wants them all at once, so they must fit into the scratch memory.
  const auto bytes = std::as_bytes(std::span(groups));
  if (bytes.size() > thread.scratch_size()) {
    fail(EOPNOTSUPP, "{}: more than {} supplementary groups", thread.tid(), thread.scratch_size() / sizeof(gid_t));
  }
  thread.write(thread.scratch(), bytes);
  thread.call("setgroups", SYS_setgroups, groups.size(), thread.scratch().addr);
}

void set_identity(Remote& thread, const Credentials& want) {
  set_groups(thread, want.groups);
  thread.call("setresgid", SYS_setresgid, want.gid[0], want.gid[1], want.gid[2]);
  thread.call("setresuid", SYS_setresuid, want.uid[0], want.uid[1], want.uid[2]);
  if (want.gid[3] != want.gid[1]) thread.call("setfsgid", SYS_setfsgid, want.gid[3]);
  if (want.uid[3] != want.uid[1]) thread.call("setfsuid", SYS_setfsuid, want.uid[3]);
}

void drop_bounding(Remote& thread, uint64_t have, uint64_t want) {
  for (int cap = 0; cap < 64; ++cap) {
    const uint64_t bit = uint64_t{1} << cap;
    if ((have & bit) != 0 && (want & bit) == 0) {
      thread.call("prctl(PR_CAPBSET_DROP)", SYS_prctl, PR_CAPBSET_DROP, static_cast<uint64_t>(cap), 0, 0, 0);
    }
  }
}

void set_capabilities(Remote& thread, const Credentials& want) {
  const auto low = [](uint64_t caps) { return static_cast<uint32_t>(caps); };
  const auto high = [](uint64_t caps) { return static_cast<uint32_t>(caps >> 32); };
  struct {
    __user_cap_header_struct header;
    __user_cap_data_struct data[2];
  } caps = {{_LINUX_CAPABILITY_VERSION_3, 0},
            {{low(want.effective), low(want.permitted), low(want.inheritable)},
             {high(want.effective), high(want.permitted), high(want.inheritable)}}};
  const RemotePtr at = thread.put(caps);
  thread.call("capset", SYS_capset, at.addr, at.addr + sizeof caps.header);
}

/// A caller who has given up rights for good must not get them back with a process that we make for him.
void check_confinement(const Caller& caller, const Credentials& want, const std::string& where) {
  if (!caller.seen) fail(EPERM, "{}: what the caller may do cannot be seen: it has ended, or hides in a pid namespace", where);
  if (!want.no_new_privs && caller.no_new_privs) {
    fail(EPERM, "{}: the caller runs under no_new_privs, and the image does not", where);
  }
  if ((want.bounding & ~caller.bounding_caps) != 0) {
    fail(EPERM, "{}: its capability bounding set is above the caller's", where);
  }
  if (caller.seccomp) fail(EPERM, "{}: the caller runs under seccomp, and the process would not", where);
  if (!caller.label.empty()) {
    fail(EPERM, "{}: the caller has the security label '{}', and the process would have ours", where, escape(caller.label));
  }
  if (!caller.other_namespace.empty()) {
    fail(EPERM, "{}: the caller is in another {} namespace, and the process would be in ours", where,
         caller.other_namespace);
  }
}

}  // namespace

void ask_credentials(Questions& questions) { questions.ask(kSecurebits); }

void capture_credentials(const CaptureContext& ctx, Remote& thread, const Questions& answers, Record& out) {
  const std::string status = read_file(status_path(thread));
  const Credentials c = of_thread(thread, status, answers.good_result(kSecurebits));
  out.add("uid", join(c.uid));
  out.add("gid", join(c.gid));
  if (!c.groups.empty()) out.add("groups", join(c.groups));
  out.add_hex("cap_inheritable", c.inheritable);
  out.add_hex("cap_permitted", c.permitted);
  out.add_hex("cap_effective", c.effective);
  out.add_hex("cap_bounding", c.bounding);
  out.add_hex("cap_ambient", c.ambient);
  out.add_hex("securebits", c.securebits);
  out.add("no_new_privs", c.no_new_privs ? 1 : 0);
  capture_seccomp(ctx, thread, status, out);
}

void restore_credentials(const RestoreContext& ctx, Remote& thread, const Record& record) {
  check_may_resume(ctx.caller, record);
  const Credentials want = parse_record(record);
  restore_seccomp(ctx, thread, record);
  const Credentials have = of_thread(thread);
  if (have == want) return;
  drop_bounding(thread, have.bounding, want.bounding);
  // Capabilities must survive the change of uids until they are set to what they were; the image's own securebits
  // come afterwards, while CAP_SETPCAP is still there.
  constexpr uint64_t kNoFixup = 1 << SECURE_NO_SETUID_FIXUP;
  if (have.securebits != want.securebits || have.uid != want.uid) {
    thread.call("prctl(PR_SET_SECUREBITS)", SYS_prctl, PR_SET_SECUREBITS, have.securebits | kNoFixup, 0, 0, 0);
  }
  set_identity(thread, want);
  if (have.securebits != want.securebits || have.uid != want.uid) {
    thread.call("prctl(PR_SET_SECUREBITS)", SYS_prctl, PR_SET_SECUREBITS, want.securebits, 0, 0, 0);
  }
  set_capabilities(thread, want);
  for (int cap = 0; cap < 64; ++cap) {
    if ((want.ambient >> cap) & 1) {
      thread.call("prctl(PR_CAP_AMBIENT_RAISE)", SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE,
                  static_cast<uint64_t>(cap), 0, 0);
    }
  }
  if (want.no_new_privs) thread.call("prctl(PR_SET_NO_NEW_PRIVS)", SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (!(of_thread(thread) == want)) {
    fail(EPERM, "{}: the credentials of the image cannot be given to it here", record.where());
  }
}

void check_may_resume(const Caller& caller, const Record& thread) {
  const Credentials c = parse_record(thread);
  if (caller.privileged()) return;
  for (const uint32_t uid : c.uid) {
    if (uid != caller.uid) fail(EPERM, "{}: uid {} is not the caller's ({})", thread.where(), uid, caller.uid);
  }
  const auto own_group = [&](gid_t gid) { return gid == caller.gid || std::ranges::count(caller.groups, gid) != 0; };
  for (const uint32_t gid : c.gid) {
    if (!own_group(gid)) fail(EPERM, "{}: gid {} is not the caller's", thread.where(), gid);
  }
  for (const gid_t gid : c.groups) {
    if (!own_group(gid)) fail(EPERM, "{}: group {} is not the caller's", thread.where(), gid);
  }
  if ((c.inheritable | c.permitted | c.effective | c.ambient) != 0) {
    fail(EPERM, "{}: it has capabilities, which only root may resume", thread.where());
  }
  check_confinement(caller, c, thread.where());
}

}  // namespace ckpt
