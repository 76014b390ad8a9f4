#include "ckptfs/cores_dir.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

namespace ckpt {

namespace {

class CoreHandle : public Handle {
 public:
  explicit CoreHandle(std::shared_ptr<const CoreSource> core) : core_(std::move(core)) {}
  bool keep_cache() const override { return true; }
  uint64_t size() const override { return core_->size(); }
  void read(const Request&, uint64_t offset, size_t size, const Answer& answer) override {
    const uint64_t end = core_->size();
    std::vector<std::byte> buffer(offset < end ? std::min<uint64_t>(size, end - offset) : 0);
    if (!buffer.empty()) core_->read(offset, buffer);
    answer(buffer);
  }

 private:
  const std::shared_ptr<const CoreSource> core_;
};

class CoreNode : public Node {
 public:
  CoreNode(Ino ino, const ManifestHeader& header, std::shared_ptr<const CoreSource> core)
      : Node(ino), uid_(header.uid), gid_(header.gid), time_(to_timespec(header.time_ns)), core_(std::move(core)) {}

  struct stat stat() const override { return make_stat(S_IFREG | 0400, uid_, gid_, core_->size(), 1, time_); }
  double attribute_timeout() const override { return kForever; }
  HandlePtr open(const Request&, int flags) override {
    if ((flags & O_ACCMODE) != O_RDONLY) fail(EROFS, "a core is read-only");
    return std::make_shared<CoreHandle>(core_);
  }

 private:
  const uid_t uid_;
  const gid_t gid_;
  const struct timespec time_;
  const std::shared_ptr<const CoreSource> core_;
};

Ino core_ino(uint64_t image_id, size_t process) {
  return kCoreInoBase + ((image_id + 1) << kInoBitsPerImage) + process;
}

}  // namespace

struct stat CoresDir::stat() const { return make_stat(S_IFDIR | 0555, ::geteuid(), ::getegid(), 0, 2, started_); }

NodePtr CoresDir::make(std::shared_ptr<const StoredImage> image, size_t process) {
  const ManifestHeader& header = image->info().header;
  const Ino ino = core_ino(image->info().id, process);
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(made_, [](const auto& made) { return made.second.expired(); });
    if (const auto found = made_.find(ino); found != made_.end()) {
      if (auto node = found->second.lock()) return node;
    }
  }
  const auto node = std::make_shared<CoreNode>(ino, header, factory_(image, header.pids.at(process)));
  const std::lock_guard lock(mutex_);
  made_[ino] = node;
  return node;
}

NodePtr CoresDir::lookup(const Request&, const std::string& name) {
  if (!factory_) fail(ENOENT, "cores/{}: this ckptfs makes no cores", name);
  if (catalog_.has(name)) return make(catalog_.open(name)->shared_image(), 0);
  // NAME.PID: names may have dots of their own, so the last one counts.
  const size_t dot = name.rfind('.');
  if (dot != std::string::npos && catalog_.has(name.substr(0, dot))) {
    const auto tree = catalog_.open(name.substr(0, dot));
    const std::vector<int>& pids = tree->image().info().header.pids;
    for (size_t i = 1; i < pids.size(); ++i) {
      if (std::to_string(pids[i]) == name.substr(dot + 1)) return make(tree->shared_image(), i);
    }
  }
  fail(ENOENT, "cores/{}: no such image", name);
}

std::vector<DirEntry> CoresDir::list(const Request& request) {
  std::vector<DirEntry> result;
  if (!factory_) return result;
  for (const ImageInfo& info : catalog_.images()) {
    if (request.uid != 0 && request.uid != info.header.uid) continue;
    for (size_t i = 0; i < info.header.pids.size(); ++i) {
      const std::string name = i == 0 ? info.name : fmt::format("{}.{}", info.name, info.header.pids[i]);
      result.push_back({name, core_ino(info.id, i), S_IFREG, nullptr});
    }
  }
  return result;
}

}  // namespace ckpt
