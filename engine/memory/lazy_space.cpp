#include "engine/memory/lazy_space.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <cstring>

#include "engine/base/error.h"
#include "engine/base/fd.h"

namespace ckpt {
namespace {

/// Brought in at once: around a fault, and in the background.
constexpr uint64_t kFaultWindow = 256 << 10;
constexpr uint64_t kBackgroundWindow = 2 << 20;
/// Copied at a time: a message waits so long for the thread that reads it.
constexpr uint64_t kCopyBytes = 256 << 10;

bool all_zero(std::span<const std::byte> page) {
  return page.front() == std::byte{0} && std::memcmp(page.data(), page.data() + 1, page.size() - 1) == 0;
}

}  // namespace

LazySpace::LazySpace(pid_t pid, UniqueFd uffd, std::shared_ptr<const ImageSource> image, LazyFigures& figures)
    : pid_(pid), uffd_(std::move(uffd)), image_(std::move(image)), figures_(figures) {}

LazySpace::LazySpace(const LazySpace& parent, UniqueFd uffd)
    : pid_(0), uffd_(std::move(uffd)), image_(parent.image_), figures_(parent.figures_), map_(parent.map_) {}

bool LazySpace::add_mapping(Range mapping) {
  uffdio_register reg = {};
  reg.range = {mapping.start, mapping.size()};
  reg.mode = UFFDIO_REGISTER_MODE_MISSING;
  return ::ioctl(uffd_.fd(), UFFDIO_REGISTER, &reg) == 0;
}

bool LazySpace::done() const {
  const std::lock_guard lock(mutex_);
  return map_.empty();
}

uint64_t LazySpace::bytes_left() const {
  const std::lock_guard lock(mutex_);
  return map_.bytes();
}

void LazySpace::forget_all() {
  const std::lock_guard lock(mutex_);
  map_ = {};
}

bool LazySpace::step(std::unique_ptr<LazySpace>& child, int& born) {
  std::optional<uffd_msg> message;
  {
    const std::lock_guard first(turnstile_);
    const std::unique_lock lock(changes_);
    message = uffd_.next_message();
    if (message && message->event == UFFD_EVENT_FORK) __atomic_store_n(&born, 1, __ATOMIC_SEQ_CST);
    if (message && message->event != UFFD_EVENT_PAGEFAULT) child = take_note(*message);
  }
  if (message && message->event == UFFD_EVENT_PAGEFAULT) {
    ++figures_.faults;
    const uint64_t page = message->arg.pagefault.address / kPageSize * kPageSize;
    if (!answer(page)) deferred_.push_back(page);
    return true;
  }
  const size_t before = deferred_.size();
  std::erase_if(deferred_, [this](uint64_t page) { return answer(page); });
  return message.has_value() || deferred_.size() < before;
}

/// In the exclusive lock.
std::unique_ptr<LazySpace> LazySpace::take_note(const uffd_msg& event) {
  const std::lock_guard lock(mutex_);
  ++generation_;
  switch (event.event) {
    case UFFD_EVENT_REMAP: {
      const auto& remap = event.arg.remap;
      map_.move({remap.from, remap.from + remap.len}, remap.to);
      return nullptr;
    }
    case UFFD_EVENT_REMOVE:
    case UFFD_EVENT_UNMAP:
      map_.remove({event.arg.remove.start, event.arg.remove.end});
      return nullptr;
    case UFFD_EVENT_FORK: {
      std::unique_ptr<LazySpace> child(new LazySpace(*this, UniqueFd(static_cast<int>(event.arg.fork.ufd))));
      // MADV_WIPEONFORK: the parent, who waits for us, tells.
      if (pid_ == 0) return child;
      const std::string where = fmt::format("/proc/{}/smaps", pid_.load());
      for (const Vma& vma : parse_maps(read_file(where, 1 << 30), where)) {
        if (vma.has_flag("wf")) child->map_.remove({vma.start, vma.end});
      }
      return child;
    }
    default:
      fail(EIO, "{}: userfaultfd: unknown event {}", pid_.load(), event.event);
  }
}

/// False where it must wait for an event to be read.
bool LazySpace::answer(uint64_t page) {
  std::optional<LazyMap::Piece> piece;
  uint64_t generation = 0;
  {
    const std::lock_guard lock(mutex_);
    piece = map_.at(page, kFaultWindow);
    generation = generation_;
  }
  if (piece && fill(*piece, generation) == Outcome::later) return false;
  // Zeros in the image, or never in it, or there already: then who waits is woken.
  return put_zero(page) == Outcome::done;
}

bool LazySpace::fill_next() {
  std::optional<LazyMap::Piece> piece;
  uint64_t generation = 0;
  {
    const std::lock_guard lock(mutex_);
    piece = map_.next(next_, kBackgroundWindow);
    if (!piece) return false;
    next_ = piece->range.end;
    generation = generation_;
  }
  return fill(*piece, generation) == Outcome::done;
}

LazySpace::Outcome LazySpace::fill(const LazyMap::Piece& piece, uint64_t generation) {
  std::vector<std::byte> content(piece.range.size());
  image_->read_at(*piece.path, piece.offset, content);
  for (uint64_t at = piece.range.start; at < piece.range.end; at += kCopyBytes) {
    const Range part{at, std::min(at + kCopyBytes, piece.range.end)};
    std::unique_lock turn(turnstile_);
    const std::shared_lock lock(changes_);
    turn.unlock();
    {
      const std::lock_guard guard(mutex_);
      if (generation_ != generation) return Outcome::later;
    }
    if (put(at, std::span(content).subspan(at - piece.range.start, part.size())) == Outcome::later) return Outcome::later;
    const std::lock_guard guard(mutex_);
    map_.remove(part);
    figures_.bytes += part.size();
  }
  return Outcome::done;
}

/// In the shared lock. Pages of zeros stay missing: they are zeros when they are asked for.
LazySpace::Outcome LazySpace::put(uint64_t at, std::span<const std::byte> pages) {
  bool by_page = false;   // something in the way: a page that is there, the edge of a mapping
  while (!pages.empty()) {
    if (all_zero(pages.first(kPageSize))) {
      at += kPageSize;
      pages = pages.subspan(kPageSize);
      continue;
    }
    size_t length = kPageSize;
    while (!by_page && length < pages.size() && !all_zero(pages.subspan(length, kPageSize))) length += kPageSize;
    uffdio_copy copy = {};
    copy.dst = at;
    copy.src = reinterpret_cast<uint64_t>(pages.data());
    copy.len = length;
    const int err = ::ioctl(uffd_.fd(), UFFDIO_COPY, &copy) == 0 ? 0 : errno;
    uint64_t moved = err == 0 ? length : copy.copy > 0 ? static_cast<uint64_t>(copy.copy) : 0;
    if (moved == 0) {
      if (err == EAGAIN) return Outcome::later;
      if (err == ESRCH) {
        forget_all();
        return Outcome::done;
      }
      if (err != EEXIST && err != ENOENT && err != EINTR) {
        fail(err, "{}: UFFDIO_COPY to {:#x}: {}", pid_.load(), at, errno_text(err));
      }
      if (err != EINTR && (by_page || length == kPageSize)) moved = kPageSize;
      by_page |= err != EINTR;
    }
    at += moved;
    pages = pages.subspan(moved);
  }
  return Outcome::done;
}

LazySpace::Outcome LazySpace::put_zero(uint64_t page) {
  std::unique_lock turn(turnstile_);
  const std::shared_lock lock(changes_);
  turn.unlock();
  {
    // An event that was read since may have moved something here.
    const std::lock_guard guard(mutex_);
    if (map_.at(page, kPageSize)) return Outcome::later;
  }
  uffdio_zeropage zero = {};
  zero.range = {page, kPageSize};
  if (::ioctl(uffd_.fd(), UFFDIO_ZEROPAGE, &zero) == 0) return Outcome::done;
  const int err = errno;
  if (err == EAGAIN) return Outcome::later;
  if (err == ESRCH) forget_all();
  // There already, or no mapping of ours: the fault is to be tried again.
  uffdio_range range = {page, kPageSize};
  ::ioctl(uffd_.fd(), UFFDIO_WAKE, &range);
  return Outcome::done;
}

}  // namespace ckpt
