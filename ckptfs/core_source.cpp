#include "ckptfs/core_source.h"

#include "engine/base/error.h"
#include "engine/image/elf_core.h"

namespace ckpt {

namespace {

class ElfCoreSource : public CoreSource {
 public:
  ElfCoreSource(std::shared_ptr<const StoredImage> image, std::string prefix)
      : core_(std::move(image), std::move(prefix)) {}
  uint64_t size() const override { return core_.size(); }
  void read(uint64_t offset, std::span<std::byte> out) const override { core_.read(offset, out); }

 private:
  ElfCore core_;
};

/// Where the process's files are in the image: "", or "children/PID/" at any depth.
std::string prefix_of(const StoredImage& image, int pid) {
  if (pid == image.info().header.pid) return "";
  const std::string directory = fmt::format("children/{}/", pid);
  for (const ImageEntry& entry : image.entries()) {
    const size_t at = entry.path.find(directory);
    if (at == 0 || (at != std::string::npos && entry.path[at - 1] == '/')) {
      return entry.path.substr(0, at + directory.size());
    }
  }
  fail(ENOENT, "{}: holds no process {}", image.describe(), pid);
}

}  // namespace

std::shared_ptr<const CoreSource> elf_core_of(std::shared_ptr<const StoredImage> image, int pid) {
  std::string prefix = prefix_of(*image, pid);
  return std::make_shared<ElfCoreSource>(std::move(image), std::move(prefix));
}

}  // namespace ckpt
