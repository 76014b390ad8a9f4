#include "engine/kinds/tty.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/named_file.h"
#include "engine/kinds/pty.h"
#include "engine/kinds/pty_index.h"

namespace ckpt {

namespace {

// Documentation/admin-guide/devices.txt
constexpr unsigned kVirtualConsole = 4, kAlternate = 5;

bool is_controlling_alias(dev_t rdev) { return rdev == makedev(kAlternate, 0); }

bool is_terminal(dev_t rdev) {
  const unsigned n = major(rdev);
  return n == kVirtualConsole || (n == kAlternate && minor(rdev) <= 1) || (n >= kPtsFirst && n <= kPtsLast) ||
         n == 188 || n == 204;  // USB and other serial lines
}

/// tty_nr of /proc/PID/stat: the fifth field after the command, which is the last thing in parentheses.
std::string controlling_terminal(const CaptureContext& ctx) {
  const std::string stat = read_file(ctx.proc_dir, "stat");
  const auto words = split_words(std::string_view(stat).substr(std::min(stat.rfind(')') + 1, stat.size())));
  const auto number = words.size() > 4 ? parse_i64(words[4]) : std::nullopt;
  if (!number || *number <= 0) return "";
  // new_encode_dev: minor bits 0-7 and 20-31, major bits 8-19.
  const auto dev = static_cast<uint64_t>(*number);
  const unsigned maj = (dev >> 8) & 0xfff;
  const unsigned min = static_cast<unsigned>((dev & 0xff) | ((dev >> 12) & 0xfff00));
  if (maj == kVirtualConsole && min < 64) return fmt::format("/dev/tty{}", min);
  if (maj >= kPtsFirst && maj <= kPtsLast) return fmt::format("/dev/pts/{}", (maj - kPtsFirst) * 256 + min);
  return "";
}

/// Every call on a terminal that was hung up fails so (hung_up_tty_ioctl in drivers/tty/tty_io.c).
bool is_hung_up(int fd) {
  unsigned dev = 0;
  return ::ioctl(fd, TIOCGDEV, &dev) != 0 && errno == EIO;
}

class TtyKind : public DescriptorKind {
 public:
  const char* name() const override { return "tty"; }

  bool matches(const OpenFd& fd) const override {
    return S_ISCHR(fd.st.st_mode) && is_terminal(fd.st.st_rdev) && fd.target.starts_with('/');
  }

  bool may_be_queued() const override { return false; }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    if (ctx.no_pgrp_ttys && !pty_object(ctx, fd)) return out.add("hung_up", 1);
    if (is_hung_up(ctx.take(fd.fd).get())) return out.add("hung_up", 1);
    if (const auto object = pty_object(ctx, fd)) {
      out.add("object", *object);
      return capture_pty(ctx, *object);
    }
    capture_name(ctx, fd, out);
    capture_rdev(fd, out);
    out.add("uid", fd.st.st_uid);
    if (!is_controlling_alias(fd.st.st_rdev)) return;
    const std::string terminal = controlling_terminal(ctx);
    if (!terminal.empty()) out.add("terminal", terminal);
  }

  UniqueFd restore(const RestoreContext& ctx, const Record& record) const override {
    if (record.has("object")) return open_pty_slave(ctx, record);
    if (record.has("hung_up")) return open_hung_up_terminal(ctx, record);
    try {
      return reopen(ctx, record);
    } catch (const Error& e) {
      if (e.err() == EINVAL) throw;
      fail(ENXIO, "{}; `ckpt restore -f` resumes the program on the present terminal", e.sentence());
    }
  }

  void finish(const RestoreContext& ctx, const Record& record, int fd, Remote& leader) const override {
    if (record.has("object")) finish_pty_slave(ctx, record, fd, leader);
  }

 private:
  static UniqueFd reopen(const RestoreContext& ctx, const Record& record) {
    if (!record.has("path")) fail(ENXIO, "{}: its terminal was gone at the checkpoint already", record.where());
    if (record.has("terminal")) {
      Record direct;
      direct = Record::parse(fmt::format("path {}\nmode 020000\ndev 0:0\ninode 0\n", escape(record.get("terminal"))),
                             record.where());
      const FoundFile found = find_named(ctx, direct);
      if (!is_terminal(found.st.st_rdev)) fail(ENXIO, "{}: is not a terminal any more", found.name);
      return open_terminal(found, record);
    }
    const FoundFile found = find_named(ctx, record);
    check_rdev(found, record);
    if (!is_terminal(found.st.st_rdev)) fail(EINVAL, "{}: is not a terminal", found.name);
    if (found.st.st_uid != record.get_u64("uid", UINT32_MAX)) {
      fail(ENXIO, "{}: belongs to somebody else now", found.name);
    }
    return open_terminal(found, record);
  }

  static UniqueFd open_terminal(const FoundFile& found, const Record& record) {
    // A serial line without a carrier would make a blocking open wait.
    UniqueFd fd = open_found(found, open_flags(record) | O_NONBLOCK | O_NOCTTY);
    set_status_flags(fd.get(), record);
    return fd;
  }
};

}  // namespace

const DescriptorKind& tty_kind() {
  static const TtyKind kind;
  return kind;
}

}  // namespace ckpt
