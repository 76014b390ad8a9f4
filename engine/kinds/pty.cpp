#include "engine/kinds/pty.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include "engine/base/error.h"
#include "engine/base/hex.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/named_file.h"
#include "engine/kinds/pipe.h"
#include "engine/kinds/pty_index.h"
#include "engine/kinds/pty_queue.h"

// <sys/ioctl.h> and <asm/termbits.h> do not go together.
extern "C" int ioctl(int fd, unsigned long request, ...) noexcept;

namespace ckpt {

namespace {

// include/uapi/asm-generic/ioctls.h
constexpr unsigned long kTiocexcl = 0x540c, kTiocsctty = 0x540e, kTiocgpgrp = 0x540f, kTiocspgrp = 0x5410,
                        kTiocgwinsz = 0x5413, kTiocswinsz = 0x5414, kTiocpkt = 0x5420, kTiocgetd = 0x5424,
                        kTiocgsid = 0x5429, kTcgets2 = 0x802c542a, kTiocgptn = 0x80045430, kTiocsptlck = 0x40045431,
                        kTiocgpkt = 0x80045438, kTiocgptlck = 0x80045439, kTiocgexcl = 0x80045440, kTiocgptpeer = 0x5441;
constexpr uint64_t kMaxIndex = 1 << 20;          // NR_UNIX98_PTY_MAX
constexpr const char* kOpenSlave = ".slave";     // after a pair's name: its slave, while descriptors of it are made

struct Window {
  unsigned short rows, columns, x, y;
};

unsigned index_of(const OpenFd& master) { return pty_master_index(master).value_or(UINT32_MAX); }

bool hung_up(int master) {
  pollfd state = {master, POLLIN, 0};
  return ::poll(&state, 1, 0) == 1 && (state.revents & POLLHUP) != 0;
}

int asked(int fd, unsigned long request) {
  int value = 0;
  return ioctl(fd, request, &value) == 0 ? value : 0;
}

const char* name_of(PtyInput::Kind kind) {
  return kind == PtyInput::line ? "line" : kind == PtyInput::end ? "end" : "rest";
}

void add_settings(int master, const std::string& where, Record& out) {
  termios2 t = {};
  Window window = {};
  if (ioctl(master, kTcgets2, &t) != 0 || ioctl(master, kTiocgwinsz, &window) != 0) {
    fail_errno("{}: settings of the terminal", where);
  }
  out.add("termios", fmt::format("{:#x} {:#x} {:#x} {:#x} {} {} {}", t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag, t.c_line,
                                 t.c_ispeed, t.c_ospeed));
  out.add("cc", to_hex(std::as_bytes(std::span(t.c_cc))));
  out.add("window", fmt::format("{} {} {} {}", window.rows, window.columns, window.x, window.y));
}

termios2 parse_termios(const Record& object) {
  termios2 t = {};
  const auto n = object.get_numbers("termios", 7);
  if (std::ranges::any_of(n, [](uint64_t value) { return value > UINT32_MAX; }) || n[4] > 255) {
    fail(EINVAL, "{}: termios is malformed", object.where());
  }
  t.c_iflag = static_cast<tcflag_t>(n[0]);
  t.c_oflag = static_cast<tcflag_t>(n[1]);
  t.c_cflag = static_cast<tcflag_t>(n[2]);
  t.c_lflag = static_cast<tcflag_t>(n[3]);
  t.c_line = static_cast<cc_t>(n[4]);
  t.c_ispeed = static_cast<speed_t>(n[5]);
  t.c_ospeed = static_cast<speed_t>(n[6]);
  const auto cc = from_hex(object.get("cc"));
  if (!cc || cc->size() != sizeof t.c_cc) fail(EINVAL, "{}: cc is malformed", object.where());
  std::memcpy(t.c_cc, cc->data(), sizeof t.c_cc);
  return t;
}

Window parse_window(const Record& object) {
  const auto n = object.get_numbers("window", 4);
  if (std::ranges::any_of(n, [](uint64_t value) { return value > UINT16_MAX; })) {
    fail(EINVAL, "{}: window is malformed", object.where());
  }
  const auto at = [&](size_t i) { return static_cast<unsigned short>(n[i]); };
  return {at(0), at(1), at(2), at(3)};
}

PtyContent parse_content(const Record& object) {
  PtyContent content;
  content.output = object.find("output").value_or("");
  for (const auto& [field, value] : object.lines()) {
    for (const PtyInput::Kind kind : {PtyInput::line, PtyInput::end, PtyInput::rest}) {
      if (field == name_of(kind)) content.input.push_back({kind, value});
    }
  }
  return content;
}

Record object_record(const RestoreContext& ctx, const std::string& object) {
  const std::string path = "objects/" + object;
  return Record::parse(ctx.image->read(path, 1 << 20), ctx.image->describe() + "/" + path);
}

/// The lowest free number is the next: all below the wanted one are taken for a moment.
UniqueFd open_master(const RestoreContext& ctx, const Record& record, const std::string& path, uint64_t index) {
  std::vector<UniqueFd> taken;
  for (;;) {
    UniqueFd master = open_in_root(ctx, record, path, O_RDWR | O_NOCTTY | O_NONBLOCK);
    struct stat st = {};
    unsigned got = 0;
    if (fstat(master.get(), &st) != 0 || !S_ISCHR(st.st_mode) || st.st_rdev != makedev(5, 2) ||
        ioctl(master.get(), kTiocgptn, &got) != 0) {
      fail(ENXIO, "{}: {}: makes no pseudo-terminals", record.where(), path);
    }
    if (got >= index) return master;
    taken.push_back(std::move(master));
  }
}

UniqueFd open_peer(int master, int flags, const std::string& where) {
  UniqueFd slave(ioctl(master, kTiocgptpeer, flags | O_NOCTTY | O_CLOEXEC));
  if (!slave) fail_errno("{}: opening the slave of a pseudo-terminal", where);
  return slave;
}

void set(int fd, unsigned long request, int value, const Record& object, const char* what) {
  if (ioctl(fd, request, &value) != 0) fail_errno("{}: {}", object.where(), what);
}

void set_owner(const RestoreContext& ctx, int slave, const Record& object) {
  // The mode is written in octal.
  const auto words = split_words(object.get("owner"));
  std::array<uint64_t, 3> n = {UINT64_MAX, UINT64_MAX, UINT64_MAX};
  for (size_t i = 0; i < n.size() && words.size() == n.size(); ++i) {
    const auto end = words[i].data() + words[i].size();
    const auto [last, err] = std::from_chars(words[i].data(), end, n[i], i == 0 ? 8 : 10);
    if (err != std::errc{} || last != end) n[i] = UINT64_MAX;
  }
  if (n[0] > 07777 || n[1] > UINT32_MAX || n[2] > UINT32_MAX) fail(EINVAL, "{}: owner is malformed", object.where());
  if (!ctx.caller.privileged()) return;
  if (fchown(slave, static_cast<uid_t>(n[1]), static_cast<gid_t>(n[2])) != 0 || fchmod(slave, static_cast<mode_t>(n[0])) != 0) {
    fail_errno("{}: owner of the terminal", object.where());
  }
}

/// Makes the pair; ctx.objects has the master afterwards.
int make_pty(const RestoreContext& ctx, const Record& record, const std::string& name) {
  if (const auto made = ctx.objects->find(name); made != ctx.objects->end()) return made->second.get();
  const Record object = object_record(ctx, name);
  const std::string state = object.get("slave");
  if (state != "open" && state != "closed" && state != "unopened") fail(EINVAL, "{}: slave is malformed", object.where());
  const termios2 termios = parse_termios(object);
  const Window window = parse_window(object);
  const PtyContent content = parse_content(object);
  UniqueFd owned = open_master(ctx, record, object.get("master"), object.get_u64("index", kMaxIndex));
  const int master = owned.get();
  set(master, kTiocsptlck, 0, object, "unlocking");
  UniqueFd slave;
  if (state != "unopened") slave = open_peer(master, O_RDWR | O_NONBLOCK, object.where());
  fill_pty(master, slave.get(), content, termios, object.where());
  if (ioctl(master, kTiocswinsz, &window) != 0) fail_errno("{}: window", object.where());
  if (slave) set_owner(ctx, slave.get(), object);
  if (object.get_u64_or("packet", 0) != 0) set(master, kTiocpkt, 1, object, "packet mode");
  ctx.objects->emplace(name, std::move(owned));
  // Kept until every descriptor of it is there: the end of the last one is a hang-up.
  if (state == "open") ctx.objects->emplace(name + kOpenSlave, std::move(slave));
  return master;
}

class PtmxKind : public DescriptorKind {
 public:
  const char* name() const override { return "ptmx"; }
  bool matches(const OpenFd& fd) const override { return is_pty_master(fd); }
  bool may_be_queued() const override { return false; }

  std::optional<std::string> refuse(const CaptureContext& ctx, const OpenFd& fd) const override {
    const auto no = [&](const std::string& why) {
      return fmt::format("a pseudo-terminal (/dev/pts/{}) {} cannot be checkpointed", index_of(fd), why);
    };
    const UniqueFd mine = ctx.take(fd.fd);
    if (asked(mine.get(), kTiocgetd) != 0) return no("with a line discipline of its own");
    pollfd state = {mine.get(), POLLPRI, 0};
    if (::poll(&state, 1, 0) == 1 && (state.revents & POLLPRI) != 0) {
      return no("with a status of packet mode that is not read yet");
    }
    if (const pid_t session = asked(mine.get(), kTiocgsid); session != 0 && !ctx.has_process(session)) {
      return no(fmt::format("that is the controlling terminal of session {}", session));
    }
    if (const pid_t holder = pty_index(ctx).outside_holder(index_of(fd)); holder != 0) {
      return no(fmt::format("that process {} has open too", holder));
    }
    return std::nullopt;
  }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    const std::string object = fmt::format("pty-{}", index_of(fd));
    out.add("object", object);
    capture_pty(ctx, object);
  }

  UniqueFd restore(const RestoreContext& ctx, const Record& record) const override {
    const std::string object = object_name(record, "pty-");
    UniqueFd fd(fcntl(make_pty(ctx, record, object), F_DUPFD_CLOEXEC, 0));
    if (!fd) fail_errno("{}: {}", record.where(), object);
    set_status_flags(fd.get(), record);
    return fd;
  }

  void finish(const RestoreContext& ctx, const Record& record, int fd, Remote& leader) const override {
    const Record object = object_record(ctx, object_name(record, "pty-"));
    if (object.get_u64_or("locked", 0) == 0) return;
    const RemotePtr at = leader.put(int{1});
    leader.call("ioctl(TIOCSPTLCK)", SYS_ioctl, static_cast<uint64_t>(fd), kTiocsptlck, at.addr);
  }
};

}  // namespace

const DescriptorKind& ptmx_kind() {
  static const PtmxKind kind;
  return kind;
}

std::optional<std::string> pty_object(const CaptureContext& ctx, const OpenFd& fd) {
  const PtyIndex& ptys = pty_index(ctx);
  const auto index = ptys.any() ? PtyIndex::slave_index(ctx, fd) : std::nullopt;
  if (!index || ptys.master(*index) == nullptr) return std::nullopt;
  return fmt::format("pty-{}", *index);
}

void capture_pty(const CaptureContext& ctx, const std::string& object) {
  if (!ctx.first(object)) return;
  const std::string index = object.substr(object.find('-') + 1), where = fmt::format("{}: {}", ctx.pid, object);
  const auto number = static_cast<unsigned>(parse_u64(index).value_or(UINT32_MAX));
  const OpenFd* master_fd = pty_index(ctx).master(number);
  if (master_fd == nullptr) fail(EIO, "{}: its master has gone", where);
  const OpenFd* slave_fd = pty_index(ctx).slave(number);
  const UniqueFd master = ctx.take(*master_fd), slave = slave_fd != nullptr ? ctx.take(*slave_fd) : UniqueFd();
  Record out;
  out.add("index", index);
  out.add("master", path_below_root(ctx, master_fd->target).value_or(master_fd->target));
  out.add("slave", slave ? "open" : hung_up(master.get()) ? "closed" : "unopened");
  add_settings(master.get(), where, out);
  struct stat st = {};
  if (stat(("/dev/pts/" + index).c_str(), &st) != 0) st.st_mode = 0620;
  if (slave && slave_fd->st.st_rdev != makedev(5, 0)) st = slave_fd->st;
  out.add("owner", fmt::format("{:#o} {} {}", st.st_mode & 07777, st.st_uid, st.st_gid));
  if (asked(master.get(), kTiocgpkt) != 0) out.add("packet", 1);
  if (asked(master.get(), kTiocgptlck) != 0) out.add("locked", 1);
  if (slave && asked(slave.get(), kTiocgexcl) != 0) out.add("exclusive", 1);
  if (const pid_t session = asked(master.get(), kTiocgsid); session > 0) {
    out.add("session", session);
    out.add("foreground", asked(master.get(), kTiocgpgrp));
  }
  const PtyContent content = look_into_pty(master.get(), slave.get(), where);
  for (const PtyInput& input : content.input) out.add(name_of(input.kind), input.text);
  if (!content.output.empty()) out.add("output", content.output);
  ctx.image->put("objects/" + object, out.text());
}

UniqueFd open_pty_slave(const RestoreContext& ctx, const Record& record) {
  const std::string object = object_name(record, "pty-");
  if (object.ends_with(kOpenSlave)) fail(EINVAL, "{}: object is malformed", record.where());
  const int master = make_pty(ctx, record, object);
  if (!ctx.objects->contains(object + kOpenSlave)) fail(EINVAL, "{}: the slave of {} is not open", record.where(), object);
  UniqueFd slave = open_peer(master, (open_flags(record) & O_ACCMODE) | O_NONBLOCK, record.where());
  set_status_flags(slave.get(), record);
  return slave;
}

UniqueFd open_hung_up_terminal(const RestoreContext& ctx, const Record& record) {
  const UniqueFd master = open_master(ctx, record, "/dev/ptmx", 0);
  int locked = 0;
  if (ioctl(master.get(), kTiocsptlck, &locked) != 0) fail_errno("{}: unlocking", record.where());
  UniqueFd slave = open_peer(master.get(), (open_flags(record) & O_ACCMODE) | O_NONBLOCK, record.where());
  set_status_flags(slave.get(), record);
  return slave;
}

void finish_pty_slave(const RestoreContext& ctx, const Record& record, int fd, Remote& leader) {
  const Record object = object_record(ctx, object_name(record, "pty-"));
  if (object.get_u64_or("exclusive", 0) == 0) return;
  leader.call("ioctl(TIOCEXCL)", SYS_ioctl, static_cast<uint64_t>(fd), kTiocexcl, 0);
}

namespace {

/// Calls `work` with the object and the slave of the pair that is the controlling terminal of the process's session, as a
/// descriptor in the process.
template <typename Work>
void with_controlling_terminal(const RestoreContext& ctx, Remote& leader, Work&& work) {
  const auto found = find_controlling_terminal(ctx);
  if (!found) return;
  const auto number = static_cast<uint64_t>(ctx.give(ctx.objects->at(*found + kOpenSlave).get()));
  work(object_record(ctx, *found), number);
  leader.call("close", SYS_close, number);
}

}  // namespace

std::optional<std::string> find_controlling_terminal(const RestoreContext& ctx) {
  for (auto it = ctx.objects->lower_bound("pty-"); it != ctx.objects->end() && it->first.starts_with("pty-"); ++it) {
    if (!ctx.objects->contains(it->first + kOpenSlave)) continue;
    const Record object = object_record(ctx, it->first);
    if (object.get_u64_or("session", 0) == static_cast<uint64_t>(ctx.pid)) return it->first;
  }
  return std::nullopt;
}

void take_controlling_terminal(const RestoreContext& ctx, Remote& leader) {
  with_controlling_terminal(ctx, leader, [&](const Record&, uint64_t number) {
    leader.call("ioctl(TIOCSCTTY)", SYS_ioctl, number, kTiocsctty, 0);
  });
}

void restore_foreground(const RestoreContext& ctx, Remote& leader) {
  with_controlling_terminal(ctx, leader, [&](const Record& object, uint64_t number) {
    // In the session of `ckpt restore -f` it leads none.
    if (leader.call("getsid", SYS_getsid, 0) != ctx.pid) return;
    const RemotePtr at = leader.put(static_cast<int>(object.get_u64("foreground", INT32_MAX)));
    const auto err = static_cast<int>(-leader.syscall(SYS_ioctl, number, kTiocspgrp, at.addr));
    // Of a group whose last process has ended there is nothing left, or another has its number.
    if (err > 0 && err != ESRCH && err != EPERM) fail(err, "{}: foreground: {}", object.where(), errno_text(err));
  });
}

}  // namespace ckpt
