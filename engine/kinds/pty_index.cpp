#include "engine/kinds/pty_index.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "engine/base/error.h"
#include "engine/kinds/open_links.h"

namespace ckpt {

namespace {

constexpr std::string_view kSlave = "/dev/pts/", kMasters[] = {"/dev/ptmx", "/dev/pts/ptmx"};

std::optional<unsigned> as_index(const std::optional<std::string>& text) {
  const auto number = text ? parse_u64(*text) : std::nullopt;
  if (!number || *number > UINT32_MAX) return std::nullopt;
  return static_cast<unsigned>(*number);
}

/// What a descriptor of another process leads to, by its link in /proc.
std::optional<unsigned> index_of_link(const std::string& process, const char* fd, std::string_view target) {
  if (std::ranges::find(kMasters, target) != std::end(kMasters)) {
    OpenFd info;
    try {
      info.fdinfo = read_file(fmt::format("{}/fdinfo/{}", process, fd));
    } catch (const Error&) {
      return std::nullopt;  // closed meanwhile
    }
    return pty_master_index(info);
  }
  if (!target.starts_with(kSlave)) return std::nullopt;
  return as_index(std::string(target.substr(kSlave.size())));
}

}  // namespace

bool is_pty_master(const OpenFd& fd) {
  return S_ISCHR(fd.st.st_mode) && fd.st.st_rdev == makedev(5, 2) && (fd.flags & O_PATH) == 0;
}

std::optional<unsigned> pty_master_index(const OpenFd& master) { return as_index(master.info("tty-index")); }

std::optional<unsigned> PtyIndex::slave_index(const CaptureContext& ctx, const OpenFd& fd) {
  if (!S_ISCHR(fd.st.st_mode) || (fd.flags & O_PATH) != 0) return std::nullopt;
  dev_t dev = fd.st.st_rdev;
  if (dev == makedev(5, 0)) {
    // /dev/tty: new_encode_dev() in include/linux/kdev_t.h.
    unsigned encoded = 0;
    if (::ioctl(ctx.take(fd).get(), TIOCGDEV, &encoded) != 0) return std::nullopt;
    dev = makedev((encoded >> 8) & 0xfff, (encoded & 0xff) | ((encoded >> 12) & 0xfff00));
  }
  if (major(dev) < kPtsFirst || major(dev) > kPtsLast) return std::nullopt;
  return (major(dev) - kPtsFirst) * 256 + minor(dev);
}

PtyIndex::PtyIndex(const CaptureContext& ctx) : inside_(ctx.tree->pids) {
  inside_.insert(ctx.pid);
  for (const std::vector<OpenFd>* table : ctx.tree->tables) {
    for (const OpenFd& fd : *table) {
      if (fd.shares >= 0 || !is_pty_master(fd)) continue;
      if (const auto index = pty_master_index(fd)) masters_.emplace(*index, &fd);
    }
  }
  if (masters_.empty()) return;
  for (const std::vector<OpenFd>* table : ctx.tree->tables) {
    for (const OpenFd& fd : *table) {
      if (fd.shares >= 0 || !S_ISCHR(fd.st.st_mode)) continue;
      try {
        if (const auto index = slave_index(ctx, fd)) slaves_.emplace(*index, &fd);
      } catch (const Error&) {
        // Closed meanwhile: the process is running.
      }
    }
  }
}

void PtyIndex::look_at_others() const {
  outside_.emplace();
  for_each_open_link([this](pid_t pid) { return inside_.contains(pid); },
                     [this](pid_t pid, const char* name, std::string_view target) {
                       const auto index = index_of_link(fmt::format("/proc/{}", pid), name, target);
                       if (index && masters_.contains(*index)) outside_->emplace(*index, pid);
                     });
}

pid_t PtyIndex::outside_holder(unsigned index) const {
  if (!outside_) look_at_others();
  const auto it = outside_->find(index);
  return it == outside_->end() ? 0 : it->second;
}

const PtyIndex& pty_index(const CaptureContext& ctx) {
  if (!ctx.tree->ptys) ctx.tree->ptys = std::make_shared<const PtyIndex>(ctx);
  return *ctx.tree->ptys;
}

}  // namespace ckpt
