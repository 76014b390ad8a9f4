#include "tools/ckpt/compare.h"

#include <algorithm>
#include <map>
#include <set>

#include "engine/base/error.h"
#include "engine/base/record.h"
#include "engine/image/manifest.h"
#include "engine/image/maps.h"

namespace ckpt::tool {

namespace {

struct Segment {
  uint64_t start = 0, end = 0;
  std::string path;
};

/// A path of an image in two parts: "children/12/children/13/" and "fds/3".
std::pair<std::string, std::string> split_process(const std::string& path) {
  size_t at = 0;
  while (path.compare(at, 9, "children/") == 0) {
    const size_t slash = path.find('/', at + 9);
    if (slash == std::string::npos) break;
    at = slash + 1;
  }
  return {path.substr(0, at), path.substr(at)};
}

std::vector<Segment> segments_of(const ImageSource& image, const std::string& process) {
  const std::string dir = process + "segments";
  std::vector<Segment> segments;
  for (const ImageEntry& entry : image.below(dir)) {
    const std::string name = entry.path.substr(dir.size() + 1);
    const size_t dash = name.find('-');
    const auto start = parse_u64("0x" + name.substr(0, dash));
    const auto end = parse_u64("0x" + (dash == std::string::npos ? "" : name.substr(dash + 1)));
    if (!start || !end || *start >= *end || *end - *start != entry.size || *start % kPageSize ||
        *end % kPageSize) {
      fail(EINVAL, "{}: {} is not named START-END, or has another size", image.describe(), entry.path);
    }
    segments.push_back({*start, *end, entry.path});
  }
  std::sort(segments.begin(), segments.end(), [](const auto& x, const auto& y) { return x.start < y.start; });
  return segments;
}

uint64_t total_bytes(const std::vector<Segment>& segments) {
  uint64_t total = 0;
  for (const Segment& s : segments) total += s.end - s.start;
  return total;
}

/// Compares the memory of one process.
class MemoryComparison {
 public:
  MemoryComparison(const ImageSource& a, const ImageSource& b, std::string process, const Progress& progress)
      : a_(a),
        b_(b),
        process_(std::move(process)),
        progress_(progress),
        segments_a_(segments_of(a, process_)),
        segments_b_(segments_of(b, process_)),
        total_(std::max(total_bytes(segments_a_), total_bytes(segments_b_))) {
    vmas_ = maps_of(a_);
    for (Vma& vma : maps_of(b_)) {
      if (!vma_at(vma.start)) vmas_.push_back(std::move(vma));
    }
  }

  std::vector<SegmentDifference> run() {
    // Between two neighbouring ends of segments everything is in one segment, or none, of each image.
    std::set<uint64_t> edges;
    for (const auto* list : {&segments_a_, &segments_b_}) {
      for (const Segment& s : *list) edges.insert({s.start, s.end});
    }
    for (const Vma& vma : vmas_) edges.insert({vma.start, vma.end});
    for (auto it = edges.begin(); it != edges.end() && std::next(it) != edges.end(); ++it) {
      compare_run(*it, *std::next(it));
    }
    std::vector<SegmentDifference> list;
    for (auto& [start, difference] : found_) list.push_back(std::move(difference));
    return list;
  }

 private:
  std::vector<Vma> maps_of(const ImageSource& image) const {
    const std::string path = process_ + "maps";
    return image.has(path) ? parse_maps(image.read(path), image.describe() + ": " + path)
                           : std::vector<Vma>{};
  }

  const Vma* vma_at(uint64_t address) const {
    for (const Vma& vma : vmas_) {
      if (address >= vma.start && address < vma.end) return &vma;
    }
    return nullptr;
  }

  static const Segment* segment_at(const std::vector<Segment>& segments, uint64_t address) {
    const auto after = std::upper_bound(segments.begin(), segments.end(), address,
                                        [](uint64_t at, const Segment& s) { return at < s.start; });
    if (after == segments.begin()) return nullptr;
    const Segment& s = *std::prev(after);
    return address < s.end ? &s : nullptr;
  }

  void compare_run(uint64_t start, uint64_t end) {
    const Segment* a = segment_at(segments_a_, start);
    const Segment* b = segment_at(segments_b_, start);
    if (!a && !b) return;
    uint64_t changed = 0, only_a = 0, only_b = 0;
    const uint64_t pages = (end - start) / kPageSize;
    if (!b) only_a = pages;
    if (!a) only_b = pages;
    if (a && b) changed = changed_pages(*a, *b, start, end);
    if (changed + only_a + only_b == 0) return;
    const Vma* vma = vma_at(start);
    const uint64_t key = vma ? vma->start : start;
    SegmentDifference& d = found_[key];
    d.process = process_;
    d.start = key;
    d.end = vma ? vma->end : end;
    d.mapping = vma ? vma->path : "";
    d.changed += changed;
    d.only_a += only_a;
    d.only_b += only_b;
  }

  uint64_t changed_pages(const Segment& a, const Segment& b, uint64_t start, uint64_t end) {
    uint64_t changed = 0;
    for (uint64_t at = start; at < end;) {
      const size_t size = std::min<uint64_t>(end - at, kBlockSize);
      buffer_a_.resize(size);
      buffer_b_.resize(size);
      a_.read_at(a.path, at - a.start, buffer_a_);
      b_.read_at(b.path, at - b.start, buffer_b_);
      for (size_t page = 0; page < size; page += kPageSize) {
        changed += std::memcmp(&buffer_a_[page], &buffer_b_[page], kPageSize) != 0;
      }
      at += size;
      done_ += size;
      if (progress_ && !progress_(done_, total_)) fail(EINTR, "the comparison was stopped");
    }
    return changed;
  }

  const ImageSource& a_;
  const ImageSource& b_;
  std::string process_;
  const Progress& progress_;
  std::vector<Segment> segments_a_, segments_b_;
  uint64_t total_, done_ = 0;
  std::vector<Vma> vmas_;
  std::vector<std::byte> buffer_a_, buffer_b_;
  std::map<uint64_t, SegmentDifference> found_;  ///< by start of the mapping
};

std::string content_of(const ImageSource& image, const ImageEntry& entry) {
  return entry.type == EntryType::symlink ? image.read_link(entry.path) : image.read(entry.path);
}

std::vector<FieldDifference> compare_fields(const Record& a, const Record& b) {
  std::vector<std::string> names;
  for (const Record* r : {&a, &b}) {
    for (const auto& [name, value] : r->lines()) {
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  }
  std::vector<FieldDifference> fields;
  for (const std::string& name : names) {
    FieldDifference field{name, a.all(name), b.all(name)};
    if (field.a != field.b) fields.push_back(std::move(field));
  }
  return fields;
}

/// Files that are text in the record format.
bool is_record(const std::string& file) {
  if (file.ends_with(".xsave") || file.ends_with(".data")) return false;
  return file.starts_with("fds/") || file.starts_with("registers/") || file.starts_with("threads/");
}

std::optional<RecordDifference> compare_file(const ImageSource& a, const ImageSource& b,
                                             const ImageEntry* in_a, const ImageEntry* in_b) {
  const std::string& path = (in_a ? in_a : in_b)->path;
  if (!in_b) return RecordDifference{path, Side::only_a, {}};
  if (!in_a) return RecordDifference{path, Side::only_b, {}};
  const bool both_files = in_a->type == EntryType::file && in_b->type == EntryType::file;
  if (both_files && in_a->size > kBlockSize) {
    if (in_a->size == in_b->size && a.digest(path) == b.digest(path)) return std::nullopt;
    return RecordDifference{path, Side::both, {}};
  }
  if (in_a->type == in_b->type && in_a->size == in_b->size && content_of(a, *in_a) == content_of(b, *in_b)) {
    return std::nullopt;
  }
  RecordDifference difference{path, Side::both, {}};
  if (both_files && is_record(split_process(path).second)) {
    difference.fields = compare_fields(Record::parse(a.read(path), a.describe() + ": " + path),
                                       Record::parse(b.read(path), b.describe() + ": " + path));
    if (difference.fields.empty()) return std::nullopt;  // comments only
  }
  return difference;
}

}  // namespace

Comparison compare_images(const ImageSource& a, const ImageSource& b, const Progress& progress) {
  std::map<std::string, std::pair<const ImageEntry*, const ImageEntry*>> files;
  for (const ImageEntry& entry : a.entries()) files[entry.path].first = &entry;
  for (const ImageEntry& entry : b.entries()) files[entry.path].second = &entry;

  Comparison result;
  std::set<std::string> processes;
  for (const auto& [path, sides] : files) {
    const auto [process, file] = split_process(path);
    processes.insert(process);
    if (file == kManifestName || file.starts_with("segments/")) continue;
    auto difference = compare_file(a, b, sides.first, sides.second);
    if (!difference) continue;
    auto& list = file.starts_with("fds/")         ? result.descriptors
                 : file.starts_with("registers/") ? result.registers
                                                  : result.others;
    list.push_back(std::move(*difference));
  }
  for (const std::string& process : processes) {
    for (auto& difference : MemoryComparison(a, b, process, progress).run()) {
      result.segments.push_back(std::move(difference));
    }
  }
  return result;
}

}  // namespace ckpt::tool
