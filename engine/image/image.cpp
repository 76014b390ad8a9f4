#include "engine/image/image.h"

#include <algorithm>

#include "engine/base/error.h"

namespace ckpt {

const ImageEntry* ImageSource::find(std::string_view path) const {
  const std::vector<ImageEntry>& all = entries();
  const auto it = std::lower_bound(all.begin(), all.end(), path,
                                   [](const ImageEntry& e, std::string_view p) { return e.path < p; });
  return it != all.end() && it->path == path ? &*it : nullptr;
}

std::string ImageSource::read(std::string_view path, uint64_t limit) const {
  const ImageEntry* entry = find(path);
  if (entry == nullptr || entry->type != EntryType::file) fail(ENOENT, "{}: no file {}", describe(), path);
  if (entry->size > limit) fail(EFBIG, "{}: {} is larger than {} bytes", describe(), path, limit);
  std::string out(entry->size, '\0');
  read_at(path, 0, std::as_writable_bytes(std::span(out)));
  return out;
}

void ImageSource::read_at(std::string_view path, uint64_t offset, std::span<std::byte> out) const {
  visit(path, offset, out.size(), [&](uint64_t at, std::span<const std::byte> piece) {
    std::memcpy(out.data() + (at - offset), piece.data(), piece.size());
  });
}

std::vector<ImageEntry> ImageSource::below(std::string_view dir) const {
  const std::string prefix = dir.empty() ? std::string() : std::string(dir) + '/';
  const std::vector<ImageEntry>& all = entries();
  auto it = std::lower_bound(all.begin(), all.end(), prefix,
                             [](const ImageEntry& e, const std::string& p) { return e.path < p; });
  std::vector<ImageEntry> out;
  for (; it != all.end() && it->path.starts_with(prefix); ++it) out.push_back(*it);
  return out;
}

std::string process_prefix(pid_t pid, pid_t root) {
  return pid == root ? "" : "children/" + std::to_string(pid) + "/";
}

bool valid_image_path(std::string_view path) {
  if (path.empty() || path.size() > 4095 || path.find('\0') != path.npos) return false;
  while (true) {
    const size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    if (part.empty() || part == "." || part == ".." || part.size() > 255) return false;
    if (slash == path.npos) return true;
    path.remove_prefix(slash + 1);
  }
}

void BlockSink::put_block(uint64_t index, std::span<std::byte> data, const ImageSource& base,
                          std::span<const SamePages> same) {
  for (const SamePages& pages : same) base.read_at(pages.path, pages.offset, data.subspan(pages.at, pages.bytes));
  put_block(index, data);
}

}  // namespace ckpt
