#include "engine/memory/fill.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <exception>
#include <mutex>
#include <thread>

#include "engine/base/error.h"
#include "engine/base/parallel.h"
#include "engine/memory/remote_memory.h"
#include "engine/memory/userfault.h"

namespace ckpt {
namespace {

constexpr uint64_t kPieceSize = 2 << 20;
/// Below this the calls that fetch a userfaultfd cost more than they save.
constexpr uint64_t kUserfaultBytes = 4 << 20;

bool all_zero(std::span<const std::byte> data) {
  return data.front() == std::byte{0} && std::memcmp(data.data(), data.data() + 1, data.size() - 1) == 0;
}

/// The last mapping that begins at or before an address; SIZE_MAX where there is none.
size_t vma_index(const std::vector<Vma>& vmas, uint64_t address) {
  const auto after = std::upper_bound(vmas.begin(), vmas.end(), address,
                                      [](uint64_t a, const Vma& vma) { return a < vma.start; });
  return static_cast<size_t>(after - vmas.begin()) - 1;
}

/// A part of a segment within one mapping, at most kPieceSize, for one thread to bring in.
struct Piece {
  const Segment* segment = nullptr;
  size_t vma = 0;                ///< index
  Range range;
};

/// Cuts checked segments into pieces, ascending, as the threads ask for them: a hostile image may name 128 TiB.
class PieceQueue {
 public:
  PieceQueue(const std::vector<Segment>& segments, const std::vector<Vma>& vmas) : segments_(segments), vmas_(vmas) {}

  std::optional<Piece> next() {
    const std::lock_guard lock(mutex_);
    if (ended_ || segment_ == segments_.size()) return std::nullopt;
    const Segment& segment = segments_[segment_];
    const uint64_t start = std::max(at_, segment.range.start);
    const size_t vma = vma_index(vmas_, start);
    at_ = std::min({segment.range.end, vmas_[vma].end, (start / kPieceSize + 1) * kPieceSize});
    if (at_ == segment.range.end) segment_++;
    return Piece{&segment, vma, {start, at_}};
  }
  /// Ends the work of all threads; the first error is kept.
  void set_error(std::exception_ptr error) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::move(error);
    ended_ = true;
  }
  void rethrow() {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  const std::vector<Segment>& segments_;
  const std::vector<Vma>& vmas_;
  std::mutex mutex_;             // guards what follows
  size_t segment_ = 0;
  uint64_t at_ = 0;
  bool ended_ = false;
  std::exception_ptr error_;
};

class Filler {
 public:
  Filler(const ImageSource& image, const std::vector<Vma>& vmas, pid_t pid, const CancelFlag* cancel,
         const RangeSet& inherited)
      : image_(image), vmas_(vmas), pid_(pid), memory_(pid, true), cancel_(cancel), inherited_(inherited),
        registered_(vmas.size()) {}

  /// Registers every mapping that can take its pages by UFFDIO_COPY. The others are written.
  void use_userfaultfd(UniqueFd uffd, const std::vector<Segment>& segments) {
    uffd_ = std::move(uffd);
    for (const Segment& segment : segments) {
      for (size_t i = vma_index(vmas_, segment.range.start); i < vmas_.size(); i++) {
        if (vmas_[i].start >= segment.range.end) break;
        if (registered_[i] || !suits_userfault(vmas_[i])) continue;
        uffdio_register reg = {};
        reg.range = {vmas_[i].start, vmas_[i].size()};
        reg.mode = UFFDIO_REGISTER_MODE_MISSING;
        registered_[i] = ::ioctl(uffd_.get(), UFFDIO_REGISTER, &reg) == 0;
      }
    }
  }

  void work(PieceQueue& queue) {
    try {
      while (const auto piece = queue.next()) fill(*piece);
    } catch (...) {
      queue.set_error(std::current_exception());
    }
  }

 private:
  /// UFFDIO_COPY takes 4 KiB pages only; where huge pages are wanted a plain write gets them from the fault, which is
  /// twice as fast again (notes/capture.md).
  bool suits_userfault(const Vma& vma) const {
    // Where pages are looked at first, that would be a fault.
    return vma.anonymous() && !vma.has_flag("hg") && inherited_.within({vma.start, vma.end}).empty();
  }

  void fill(const Piece& piece) {
    if (cancel_ && cancel_->load(std::memory_order_relaxed)) fail(EINTR, "{}: the resume was cancelled", pid_);
    const uint64_t base = piece.segment->range.start;
    std::vector<std::byte> torn;   // the begin of a page whose rest is still to come
    image_.visit(piece.segment->path, piece.range.start - base, piece.range.size(),
                 [&](uint64_t offset, std::span<const std::byte> data) {
                   put_any(piece.vma, base + offset, data, torn);
                 });
    if (!torn.empty()) fail(EIO, "{}: {} ends early", image_.describe(), piece.segment->path);
  }

  /// A source may hand out pieces of any size. Whole pages go straight on, what is torn is put together.
  void put_any(size_t vma, uint64_t at, std::span<const std::byte> data, std::vector<std::byte>& torn) {
    while (!data.empty()) {
      size_t take = data.size() / kPageSize * kPageSize;
      if (torn.empty() && take > 0) {
        put_pages(vma, at, data.first(take));
      } else {
        take = std::min(kPageSize - torn.size(), data.size());
        torn.insert(torn.end(), data.begin(), data.begin() + static_cast<ptrdiff_t>(take));
        if (torn.size() == kPageSize) {
          put_pages(vma, at + take - kPageSize, torn);
          torn.clear();
        }
      }
      at += take;
      data = data.subspan(take);
    }
  }

  void put_pages(size_t vma, uint64_t at, std::span<const std::byte> pages) {
    const Range whole{at, at + pages.size()};
    const std::vector<Range> there = inherited_.within(whole);
    const auto part = [&](Range range) { return pages.subspan(range.start - at, range.size()); };
    for (const Range& range : there) put_changed(vmas_[vma], range.start, part(range));
    for (const Range& range : gaps_between(whole, there)) put_new(vma, range.start, part(range));
  }

  /// The pages of a run that are not what they are to be, so that the others remain shared.
  void put_changed(const Vma& vma, uint64_t at, std::span<const std::byte> pages) {
    std::vector<std::byte> now(pages.size());
    memory_.read(at, now);
    const auto same = [&](size_t offset) { return std::memcmp(&now[offset], &pages[offset], kPageSize) == 0; };
    for (size_t begin = 0; begin < pages.size();) {
      size_t end = begin + kPageSize;
      const bool is_same = same(begin);
      while (end < pages.size() && same(end) == is_same) end += kPageSize;
      if (!is_same) put_write(vma, at + begin, pages.subspan(begin, end - begin));
      begin = end;
    }
  }

  void put_new(size_t vma, uint64_t at, std::span<const std::byte> pages) {
    if (vmas_[vma].anonymous() && all_zero(pages)) return;
    if (registered_[vma]) {
      put_userfault(at, pages);
    } else {
      put_write(vmas_[vma], at, pages);
    }
  }

  void put_userfault(uint64_t at, std::span<const std::byte> pages) {
    while (!pages.empty()) {
      uffdio_copy copy = {};
      copy.dst = at;
      copy.src = reinterpret_cast<uint64_t>(pages.data());
      copy.len = pages.size();
      copy.mode = UFFDIO_COPY_MODE_DONTWAKE;
      const bool done = ::ioctl(uffd_.get(), UFFDIO_COPY, &copy) == 0;
      const int err = errno;
      uint64_t moved = done ? pages.size() : copy.copy > 0 ? static_cast<uint64_t>(copy.copy) : 0;
      if (!done && moved == 0) {
        if (err == EAGAIN || err == EINTR) continue;
        // A page is there already: let it be overwritten.
        if (err != EEXIST) fail(err, "{}: UFFDIO_COPY to {:#x}: {}", pid_, at, errno_text(err));
        memory_.write(at, pages.first(kPageSize));
        moved = kPageSize;
      }
      at += moved;
      pages = pages.subspan(moved);
    }
  }

  void put_write(const Vma& vma, uint64_t at, std::span<const std::byte> pages) {
    while (!pages.empty() && (vma.prot & PROT_WRITE)) {
      const iovec local{const_cast<std::byte*>(pages.data()), pages.size()};
      const iovec remote{reinterpret_cast<void*>(at), pages.size()};
      const ssize_t put = ::process_vm_writev(pid_, &local, 1, &remote, 1, 0);
      if (put <= 0) break;
      at += static_cast<uint64_t>(put);
      pages = pages.subspan(static_cast<size_t>(put));
    }
    memory_.write(at, pages);
  }

  const ImageSource& image_;
  const std::vector<Vma>& vmas_;
  const pid_t pid_;
  const RemoteMemory memory_;
  const CancelFlag* const cancel_;
  const RangeSet& inherited_;
  UniqueFd uffd_;
  std::vector<bool> registered_;   // by index of the mapping; not changed once the threads run
};

/// Pages that a copy has, and is not to have.
void give_back(Remote& remote, const RangeSet& inherited, const std::vector<Segment>& segments) {
  std::vector<Range> wanted;
  for (const Segment& segment : segments) wanted.push_back(segment.range);
  auto first = wanted.begin();
  for (const Range& range : inherited.all()) {
    while (first != wanted.end() && first->end <= range.start) ++first;
    auto last = first;
    while (last != wanted.end() && last->start < range.end) ++last;
    for (const Range& gap : gaps_between(range, {first, last})) {
      remote.call("madvise(MADV_DONTNEED)", SYS_madvise, gap.start, gap.size(), MADV_DONTNEED);
    }
  }
}

void check_inside(const Segment& segment, const std::vector<Vma>& vmas, const std::string& where) {
  uint64_t at = segment.range.start;
  for (size_t i = vma_index(vmas, at); at < segment.range.end; i++) {
    if (i >= vmas.size() || at < vmas[i].start || at >= vmas[i].end) {
      fail(EINVAL, "{}: {:#x} is in no mapping of the image", where, at);
    }
    if (vmas[i].shared) fail(EINVAL, "{}: reaches into the shared {}", where, vmas[i].name());
    if (vmas[i].special()) fail(EINVAL, "{}: reaches into the kernel's {}", where, vmas[i].name());
    at = vmas[i].end;
  }
}

}  // namespace

std::vector<Segment> list_segments(const ImageSource& image, const std::string& prefix,
                                   const std::vector<Vma>& vmas) {
  std::vector<Segment> segments;
  const std::string dir = prefix + "segments";
  for (const ImageEntry& entry : image.below(dir)) {
    const std::string where = image.describe() + ": " + entry.path;
    if (entry.type != EntryType::file) fail(EINVAL, "{}: is no regular file", where);
    const Range range = parse_range_name(std::string_view(entry.path).substr(dir.size() + 1), where);
    if (entry.size != range.size()) {
      fail(EINVAL, "{}: is {} bytes long, its name says {}", where, entry.size, range.size());
    }
    segments.push_back({range, entry.path});
    check_inside(segments.back(), vmas, where);
  }
  std::sort(segments.begin(), segments.end(), [](auto& a, auto& b) { return a.range < b.range; });
  for (size_t i = 1; i < segments.size(); i++) {
    if (segments[i].range.start < segments[i - 1].range.end) {
      fail(EINVAL, "{}: {} overlaps {}", image.describe(), segments[i].path, segments[i - 1].path);
    }
  }
  return segments;
}

FilledMemory fill_memory(const ImageSource& image, const std::string& prefix, const std::vector<Vma>& vmas,
                         Remote& remote, const CancelFlag* cancel, const Inheritance& inherited) {
  const std::vector<Segment> segments = list_segments(image, prefix, vmas);
  FilledMemory result;
  for (const Segment& segment : segments) result.bytes += segment.range.size();
  give_back(remote, inherited.pages, segments);
  Filler filler(image, vmas, remote.pid(), cancel, inherited.pages);
  PieceQueue queue(segments, vmas);
  result.method = "write";
  const bool large = result.bytes >= kUserfaultBytes;
  if (large) {
    // User faults only: nobody will fault, and this needs neither privilege nor sysctl.
    if (UniqueFd uffd = fetch_userfaultfd(remote, kUffdUserModeOnly, 0); uffd) {
      filler.use_userfaultfd(std::move(uffd), segments);
      result.method = "userfaultfd";
    }
  }
  on_two_threads(large && std::thread::hardware_concurrency() > 1, [&] { filler.work(queue); });
  queue.rethrow();
  return result;
}

}  // namespace ckpt
