// The pseudo-terminals of a checkpoint: which of its processes has the master of each, and which the slave.
#pragma once

#include <map>
#include <set>

#include "engine/kinds/kind.h"

namespace ckpt {

// include/uapi/linux/major.h, Documentation/admin-guide/devices.txt
constexpr unsigned kPtsFirst = 136, kPtsLast = 143;

bool is_pty_master(const OpenFd& fd);
/// The number of its pair, of fdinfo; nothing where the kernel does not tell.
std::optional<unsigned> pty_master_index(const OpenFd& master);

/// Built once for all processes (pty_index()); the tables must stay as they are.
class PtyIndex {
 public:
  explicit PtyIndex(const CaptureContext& ctx);

  /// Whether there is a master at all.
  bool any() const { return !masters_.empty(); }
  /// Of /dev/pts/`index`, a descriptor with a file description of its own; null where no process of the checkpoint has one.
  const OpenFd* master(unsigned index) const { return find(masters_, index); }
  const OpenFd* slave(unsigned index) const { return find(slaves_, index); }
  /// The index of the slave that a terminal is; nothing for another terminal.
  static std::optional<unsigned> slave_index(const CaptureContext& ctx, const OpenFd& fd);
  /// A process outside that has either side open under its own name (not as /dev/tty); 0 for none.
  pid_t outside_holder(unsigned index) const;

 private:
  using Ends = std::map<unsigned, const OpenFd*>;
  static const OpenFd* find(const Ends& ends, unsigned index) {
    const auto it = ends.find(index);
    return it == ends.end() ? nullptr : it->second;
  }
  void look_at_others() const;

  Ends masters_, slaves_;
  std::set<pid_t> inside_;
  mutable std::optional<std::map<unsigned, pid_t>> outside_;   // of those in masters_
};

const PtyIndex& pty_index(const CaptureContext& ctx);

}  // namespace ckpt
