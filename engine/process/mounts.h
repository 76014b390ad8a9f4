// The mounts that this process sees (/proc/self/mountinfo, proc(5)), by what is on top of what.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>

namespace ckpt {

class MountTable {
 public:
  /// As it is now. Read anew only where something was mounted or unmounted since the last time, of which poll(2) tells
  /// (proc_pid_mounts(5)). Thread-safe. Throws Error.
  static std::shared_ptr<const MountTable> now();
  /// Of the text of a mountinfo.
  explicit MountTable(std::string_view text);

  /// Whether a mount of this id (statx(2), the mnt_id of fdinfo) is there, be it under others.
  bool has(int id) const { return mounts_.contains(id); }
  /// The mount in which an absolute path without symbolic links ends; 0 where nothing is mounted on its way.
  int at(std::string_view path) const;
  /// Why a directory of the mount `id`, whose path according to /proc is `path`, is not the one that this path leads to;
  /// nullptr where it is.
  const char* out_of_reach(int id, std::string_view path) const;

 private:
  struct Mount {
    int parent = 0;
    std::string point;
  };
  int next(int above, std::string_view path, size_t least) const;

  std::map<int, Mount> mounts_;
};

}  // namespace ckpt
