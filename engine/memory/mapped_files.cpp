#include "engine/memory/mapped_files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <memory>
#include <set>

#include "engine/base/error.h"
#include "engine/base/hex.h"
#include "engine/kinds/file_handle.h"
#include "engine/kinds/named_memory.h"
#include "engine/memory/build_id.h"

namespace ckpt {

namespace {

using Inode = std::tuple<uint32_t, uint32_t, uint64_t>;

Inode inode_of(const Vma& vma) { return {vma.dev_major, vma.dev_minor, vma.inode}; }

std::string mapping_text(const Vma& vma) { return fmt::format("{}:{} {}", vma.dev_major, vma.dev_minor, vma.inode); }

uint64_t mtime_ns(const struct stat& st) {
  return static_cast<uint64_t>(st.st_mtim.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(st.st_mtim.tv_nsec);
}

/// A file held open since the stop, to be described when the process runs again.
struct Held {
  Vma vma;
  UniqueFd path_fd;              // none where the file must not be touched, or cannot be opened
};

void describe_file(const CaptureContext& ctx, const Held& held, Record& out) {
  out.add("mapping", mapping_text(held.vma));
  if (!held.path_fd) {
    capture_path(ctx, held.vma.path, out);
    return;
  }
  const std::string link = fmt::format("/proc/self/fd/{}", held.path_fd.get());
  capture_path(ctx, read_link(AT_FDCWD, link), out);
  struct stat st = {};
  if (fstat(held.path_fd.get(), &st) != 0) fail_errno("{}: {}: stat", ctx.pid, held.vma.name());
  out.add("mode", fmt::format("{:#08o}", st.st_mode));
  out.add("dev", fmt::format("{}:{}", major(st.st_dev), minor(st.st_dev)));
  out.add("inode", uint64_t{st.st_ino});
  if (const auto handle = file_handle_of(AT_FDCWD, link)) out.add("handle", handle->text());
  if (!S_ISREG(st.st_mode)) return;
  out.add("size", static_cast<uint64_t>(st.st_size));
  out.add("mtime_ns", mtime_ns(st));
  const UniqueFd file(open(link.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file) return;             // may be executed but not read: size and time must do
  if (const std::string id = read_build_id(file.get()); !id.empty()) out.add("build_id", id);
}

// ---- restore ----------------------------------------------------------------------------------------------------

std::map<Inode, Record> parse_files(const RestoreContext& ctx, const std::string& where) {
  std::map<Inode, Record> files;
  const std::string name = ctx.prefix + "files";
  if (!ctx.image->has(name)) return files;
  const Record all = Record::parse(ctx.image->read(name), where);
  std::string block;
  std::optional<Inode> inode;
  const auto close_block = [&] {
    if (inode) files.insert_or_assign(*inode, Record::parse(block, where));
    block.clear();
  };
  for (const auto& [key, value] : all.lines()) {
    if (key == "mapping") {
      close_block();
      unsigned maj = 0, min = 0;
      unsigned long number = 0;
      if (sscanf(value.c_str(), "%u:%u %lu", &maj, &min, &number) != 3) {
        fail(EINVAL, "{}: mapping '{}' is not MAJOR:MINOR INODE", where, escape(value));
      }
      inode = Inode{maj, min, number};
    }
    block += key + " " + escape(value) + "\n";
  }
  close_block();
  return files;
}

/// `strict`: some mapping is private, so that the program goes on with what the file holds.
void check_unchanged(const FoundFile& found, const Record& record, bool strict, const std::string& where) {
  if (!record.has("size")) return;
  const std::string path = record.get("path");
  const uint64_t size = record.get_u64("size");
  const auto now = static_cast<uint64_t>(found.st.st_size);
  if (strict ? now != size : now < size) {
    fail(ESTALE, "{}: {} has changed since the checkpoint (size {} -> {})", where, path, size, now);
  }
  if (strict && record.get_u64("mtime_ns") != mtime_ns(found.st)) {
    fail(ESTALE, "{}: {} has changed since the checkpoint (modified at {} -> {} ns)", where, path,
         record.get_u64("mtime_ns"), mtime_ns(found.st));
  }
}

void check_build_id(int fd, const Record& record, const std::string& where) {
  const auto recorded = record.find("build_id");
  if (!recorded) return;
  const std::string now = read_build_id(fd);
  if (now != *recorded) {
    fail(ESTALE, "{}: {} has changed since the checkpoint (build-id {} -> {})", where, record.get("path"), *recorded,
         now.empty() ? "none" : now);
  }
}

/// Nothing but regular files and /dev/zero can be mapped again; opening another device could do anything.
void check_mappable(const FoundFile& found, const std::string& where) {
  const bool zero = S_ISCHR(found.st.st_mode) && found.st.st_rdev == makedev(1, 5);
  if (!S_ISREG(found.st.st_mode) && !zero) fail(EINVAL, "{}: {} is no regular file", where, found.name);
}

FoundFile find_mapped(const RestoreContext& ctx, const Record& record, const std::string& where) {
  bring_back_named_memory(ctx, record);
  if (record.has("mode")) return find_named(ctx, record);
  FoundFile found;               // of a FUSE filesystem: only the path is known
  found.name = where + ": " + record.get("path");
  found.path_fd = open_in_root(ctx, record, record.get("path"), O_PATH);
  if (fstat(found.path_fd.get(), &found.st) != 0) fail_errno("{}: stat", found.name);
  return found;
}

}  // namespace

UniqueFd hold_file(const CaptureContext& ctx, const Vma& vma) {
  // The very inode; needs CAP_CHECKPOINT_RESTORE. Else what has the name now, if it is the same.
  const std::string link = fmt::format("map_files/{:x}-{:x}", vma.start, vma.end);
  UniqueFd fd(openat(ctx.proc_dir, link.c_str(), O_PATH | O_CLOEXEC));
  if (fd) return fd;
  fd.reset(openat(ctx.proc_dir, ("root" + vma.path).c_str(), O_PATH | O_CLOEXEC));
  struct stat st = {};
  if (fd && (fstat(fd.get(), &st) != 0 || st.st_ino != vma.inode)) {
    fail(ESTALE, "{}: {}: another file has this name now", ctx.pid, vma.name());
  }
  return fd;
}

std::set<std::string> devices_of(const CaptureContext& ctx, std::string_view type) {
  std::set<std::string> devices;
  const std::string text = read_file(ctx.proc_dir, "mountinfo");
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line(text.data() + at, end - at);
    at = end + 1;
    // ID PARENT MAJOR:MINOR ROOT ... - TYPE SOURCE ...
    const size_t dash = line.find(" - ");
    if (dash == line.npos || !line.substr(dash + 3).starts_with(type)) continue;
    const auto words = split_words(line.substr(0, dash));
    if (words.size() > 2) devices.insert(words[2]);
  }
  return devices;
}

bool maps_named_file(const Vma& vma) {
  return vma.inode != 0 && !vma.special() && !vma.unnamed_file() && !vma.path.starts_with("/anon_hugepage");
}

bool needs_write_access(const Vma& vma) {
  if (!vma.shared) return false;
  return (vma.prot & PROT_WRITE) != 0 || vma.has_flag("mw");
}

void capture_mapped_files(const CaptureContext& ctx, const std::vector<Vma>& vmas) {
  const std::set<std::string> fuse = devices_of(ctx, "fuse");
  auto held = std::make_shared<std::vector<Held>>();
  std::set<Inode> seen;
  for (const Vma& vma : vmas) {
    if (!maps_named_file(vma) || !seen.insert(inode_of(vma)).second) continue;
    const bool untouchable = fuse.contains(fmt::format("{}:{}", vma.dev_major, vma.dev_minor));
    held->push_back({vma, untouchable ? UniqueFd() : hold_file(ctx, vma)});
  }
  auto write = [ctx, held] {
    std::string text;
    for (const Held& h : *held) {
      Record block;
      describe_file(ctx, h, block);
      text += block.text() + "\n";
    }
    ctx.image->put(ctx.prefix + "files", text);
  };
  if (ctx.later != nullptr) {
    ctx.later->push_back(write);
  } else {
    write();
  }
}

MappedFiles::MappedFiles(const RestoreContext& ctx, const std::vector<Vma>& vmas) {
  const std::string where = ctx.image->describe();
  const std::map<Inode, Record> files = parse_files(ctx, where);
  struct Need {
    bool read = false, write = false, strict = false;
  };
  std::map<Inode, Need> needs;
  for (const Vma& vma : vmas) {
    if (!maps_named_file(vma)) continue;
    Need& need = needs[inode_of(vma)];
    (needs_write_access(vma) ? need.write : need.read) = true;
    if (!vma.shared) need.strict = true;
    if (!files.contains(inode_of(vma))) fail(EINVAL, "{}: files has no line for {}", where, vma.name());
  }
  for (const auto& [inode, need] : needs) {
    const Record& record = files.at(inode);
    const FoundFile found = find_mapped(ctx, record, where);
    check_mappable(found, where);
    check_unchanged(found, record, need.strict, where);
    const auto [maj, min, number] = inode;
    if (need.read) {
      const auto it = open_.emplace(Key{maj, min, number, false}, open_found(found, O_RDONLY | O_NONBLOCK)).first;
      if (need.strict) check_build_id(it->second.get(), record, where);
    }
    if (need.write) open_.emplace(Key{maj, min, number, true}, open_found(found, O_RDWR | O_NONBLOCK));
  }
}

int MappedFiles::descriptor(const Vma& vma) const {
  return open_.at({vma.dev_major, vma.dev_minor, vma.inode, needs_write_access(vma)}).get();
}

}  // namespace ckpt
