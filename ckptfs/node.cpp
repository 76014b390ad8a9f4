#include "ckptfs/node.h"

#include <algorithm>
#include <atomic>
#include <ctime>

namespace ckpt {

Ino next_dynamic_ino() {
  static std::atomic<Ino> next{kDynamicInoBase};
  return next.fetch_add(1, std::memory_order_relaxed);
}

void Handle::read(const Request&, uint64_t, size_t, const Answer&) { fail(EINVAL, "this file is not readable"); }

Work Handle::write(const Request&, uint64_t, std::span<const std::byte>) { fail(EROFS, "an image is immutable"); }

uint64_t Handle::copy_from(const Request&, Handle&, uint64_t, uint64_t, uint64_t) {
  fail(EXDEV, "this file takes no references");
}

struct stat Node::attributes() const {
  struct stat result = stat();
  result.st_ino = ino_;
  return result;
}

void Node::set_attributes(const Request&, const struct stat&, const AttributeChanges&) {
  fail(EPERM, "the attributes of this file are fixed");
}

std::string Node::read_link() const { fail(EINVAL, "not a symbolic link"); }

HandlePtr Node::open(const Request&, int) { fail(EISDIR, "a directory cannot be opened as a file"); }

NodePtr Node::lookup(const Request&, const std::string& name) { fail(ENOTDIR, "{}: not in a directory", name); }

std::vector<DirEntry> Node::list(const Request&) { fail(ENOTDIR, "not a directory"); }

std::pair<NodePtr, HandlePtr> Node::create(const Request&, const std::string& name, mode_t, int) {
  fail(EPERM, "{}: no file can be made here", name);
}

NodePtr Node::make_directory(const Request&, const std::string& name, mode_t) {
  fail(EPERM, "{}: no directory can be made here", name);
}

std::pair<NodePtr, Work> Node::make_link(const Request&, const std::string& name, const std::string&) {
  fail(EPERM, "{}: no symbolic link can be made here", name);
}

void Node::remove_file(const Request&, const std::string& name) { fail(EPERM, "{}: cannot be removed", name); }

void Node::remove_directory(const Request&, const std::string& name) { fail(EPERM, "{}: cannot be removed", name); }

Work Node::rename(const Request&, const std::string& name, Node&, const std::string&) {
  fail(EPERM, "{}: cannot be renamed", name);
}

struct stat make_stat(mode_t mode, uid_t uid, gid_t gid, uint64_t size, nlink_t links, struct timespec time) {
  struct stat result {};
  result.st_mode = mode;
  result.st_uid = uid;
  result.st_gid = gid;
  result.st_size = static_cast<off_t>(size);
  result.st_blocks = static_cast<blkcnt_t>((size + 511) / 512);
  result.st_blksize = 1 << 20;
  result.st_nlink = links;
  result.st_atim = result.st_mtim = result.st_ctim = time;
  return result;
}

struct timespec to_timespec(uint64_t ns) {
  return {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
}

struct timespec now() {
  struct timespec time {};
  ::clock_gettime(CLOCK_REALTIME, &time);
  return time;
}

std::span<const std::byte> slice(std::string_view content, uint64_t offset, size_t size) {
  if (offset >= content.size()) return {};
  const std::string_view part = content.substr(offset, size);
  return std::as_bytes(std::span(part.data(), part.size()));
}

}  // namespace ckpt
