#include "engine/memory/fault_handler.h"

#include <fcntl.h>
#include <dirent.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>

#include "engine/base/error.h"
#include "engine/base/record.h"
#include "engine/base/sched.h"

namespace ckpt {
namespace {

/// Pages that one madvise(2) may drop and have copied before, while every other fault waits. Beyond that the snapshot is
/// lost, and taken in another way.
constexpr size_t kMostSavedAtOnce = (96 << 20) / kPageSize;

/// Calls `visit` with number and arguments of the system call in which each thread waits (/proc/TID/syscall).
void each_waiting_call(pid_t pid, const std::function<void(const std::array<uint64_t, 7>&)>& visit) {
  const std::string tasks = fmt::format("/proc/{}/task", pid);
  DIR* dir = ::opendir(tasks.c_str());
  if (!dir) return;
  while (const dirent* entry = ::readdir(dir)) {
    if (entry->d_name[0] == '.') continue;
    const UniqueFd fd(::open((tasks + "/" + entry->d_name + "/syscall").c_str(), O_RDONLY | O_CLOEXEC));
    std::array<char, 256> text{};
    if (!fd || ::read(fd.get(), text.data(), text.size() - 1) <= 0) continue;
    const std::vector<std::string> words = split_words(text.data());
    std::array<uint64_t, 7> call{};
    if (words.size() < call.size()) continue;   // "running"
    for (size_t i = 0; i < call.size(); i++) call[i] = parse_u64(words[i]).value_or(0);
    visit(call);
  }
  ::closedir(dir);
}

/// The memory that a waiting madvise(2) is about to drop.
std::optional<Range> removal_of(const std::array<uint64_t, 7>& call) {
  if (call[0] != SYS_madvise) return std::nullopt;
  constexpr uint64_t dontneed_locked = 24;   // MADV_DONTNEED_LOCKED, Linux 5.18
  if (call[3] != MADV_DONTNEED && call[3] != MADV_FREE && call[3] != dontneed_locked) return std::nullopt;
  const uint64_t end = (call[1] + call[2] + kPageSize - 1) / kPageSize * kPageSize;
  if (call[1] % kPageSize != 0 || end < call[1]) return std::nullopt;
  return Range{call[1], end};
}

uint64_t page_of(const uffd_msg& message) { return message.arg.pagefault.address / kPageSize * kPageSize; }

}  // namespace

FaultHandler::FaultHandler(ProtectedMemory& shared) : shared_(shared) {
  wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) fail_errno("eventfd");
  thread_ = std::thread([this] { run(); });
}

FaultHandler::~FaultHandler() {
  stop_ = true;
  const uint64_t one = 1;
  if (::write(wake_.get(), &one, sizeof one) < 0) std::terminate();
  thread_.join();
}

void FaultHandler::room_freed() {
  if (!starving_.exchange(false)) return;
  const uint64_t one = 1;
  // A full counter (EAGAIN) wakes as well.
  if (::write(wake_.get(), &one, sizeof one) < 0 && errno != EAGAIN) std::terminate();
}

void FaultHandler::run() noexcept {
  go_first();
  while (!stop_) {
    try {
      step();
    } catch (const std::exception& e) {
      lose(fmt::format("{}: the snapshot failed: {}", shared_.pid, e.what()));
    }
  }
}

void FaultHandler::step() {
  std::array<pollfd, 2> fds = {{{shared_.protector->fd(), POLLIN, 0}, {wake_.get(), POLLIN, 0}}};
  // What was deferred waits for an event to be over, which nothing reports: try again until it is.
  const int timeout = deferred_.empty() ? -1 : 0;
  if (::poll(fds.data(), fds.size(), timeout) < 0) return;
  if (fds[1].revents & POLLIN) {
    uint64_t count;
    (void)!::read(wake_.get(), &count, sizeof count);
    deferred_.insert(deferred_.end(), starved_.begin(), starved_.end());
    starved_.clear();
  }
  if (fds[0].revents & POLLIN) {
    read_message();
  } else if (fds[0].revents != 0) {
    // Nothing more will come. Wait for the end without spinning.
    ::poll(&fds[1], 1, -1);
    return;
  } else if (!deferred_.empty()) {
    std::this_thread::yield();
  }
  std::vector<uint64_t> again;
  again.swap(deferred_);
  for (const uint64_t address : again) on_fault(address);
}

void FaultHandler::read_message() {
  if (shared_.protector->pending_faults() == 0) return read_event();
  const auto message = shared_.protector->next_message();
  if (!message) return;
  if (message->event == UFFD_EVENT_PAGEFAULT) return on_fault(page_of(*message));
  // The fault was withdrawn (a signal) between the two reads, and the process goes on already.
  const std::lock_guard turn(shared_.turnstile);
  const std::unique_lock exclusive(shared_.changes);
  on_event(*message, false);
}

void FaultHandler::read_event() {
  const std::lock_guard turn(shared_.turnstile);
  const std::unique_lock exclusive(shared_.changes);
  if (shared_.fixed) before_expected_event();
  const auto message = shared_.protector->next_message();
  if (!message) return;
  if (message->event == UFFD_EVENT_PAGEFAULT) {
    deferred_.push_back(page_of(*message));
  } else {
    on_event(*message, true);
  }
}

void FaultHandler::before_expected_event() {
  // Reading the event lets madvise drop its pages at once, so what it will drop must be known before.
  each_waiting_call(shared_.pid, [&](const auto& call) {
    if (const auto range = removal_of(call)) save_range(*range);
  });
}

void FaultHandler::save_range(Range range) {
  const PieceKeeper keeper = shared_.keeper();
  const std::lock_guard table(shared_.table_mutex);
  size_t room = kMostSavedAtOnce;
  for (Piece* piece : shared_.table.overlapping(range)) {
    const std::lock_guard lock(piece->mutex);
    const size_t first = piece->index(std::max(range.start, piece->range.start));
    const size_t last = piece->index(std::min(range.end, piece->range.end));
    if (last - first > room) return;
    room -= last - first;
    // Where this does not succeed, on_removal() finds pages that are not taken.
    if (keeper.save_before_removal(*piece, first, last) != Outcome::done) return;
  }
}

void FaultHandler::on_event(const uffd_msg& message, bool expected) {
  switch (message.event) {
    case UFFD_EVENT_REMOVE:
      on_removal({message.arg.remove.start, message.arg.remove.end}, expected);
      break;
    case UFFD_EVENT_UNMAP:
      on_unmap({message.arg.remove.start, message.arg.remove.end});
      break;
    case UFFD_EVENT_REMAP:
      on_unmap({message.arg.remap.from, message.arg.remap.from + message.arg.remap.len});
      break;
    default:
      break;
  }
}

void FaultHandler::change_before_instant(Range range, bool unmapped) {
  const std::lock_guard table(shared_.table_mutex);
  for (Piece* piece : shared_.table.overlapping(range)) {
    const std::lock_guard lock(piece->mutex);
    // Dropped pages lose their protection (no marker is left for anonymous memory, mm/memory.c), so they are dirty.
    piece->dirty.set();
    if (unmapped) shared_.table.drop(piece);
  }
}

void FaultHandler::on_removal(Range range, bool expected) {
  if (!shared_.fixed) return change_before_instant(range, false);
  const std::lock_guard table(shared_.table_mutex);
  for (Piece* piece : shared_.table.overlapping(range)) {
    const std::lock_guard lock(piece->mutex);
    const size_t first = piece->index(std::max(range.start, piece->range.start));
    const size_t last = piece->index(std::min(range.end, piece->range.end));
    // Unexpected: a copier may have read a dropped page as zeros a moment ago and have had it confirmed.
    if (!expected) return lose_range(range, "madvise dropped it");
    for (size_t page = first; page < last; page++) {
      if (!piece->scanned || (piece->present[page] && !piece->taken[page])) return lose_range(range, "madvise dropped it");
    }
  }
}

void FaultHandler::on_unmap(Range range) {
  if (!shared_.fixed) return change_before_instant(range, true);
  const std::lock_guard table(shared_.table_mutex);
  for (Piece* piece : shared_.table.overlapping(range)) {
    const std::lock_guard lock(piece->mutex);
    const size_t first = piece->index(std::max(range.start, piece->range.start));
    const size_t last = piece->index(std::min(range.end, piece->range.end));
    for (size_t page = first; page < last; page++) {
      if (!piece->scanned || (piece->present[page] && !piece->taken[page])) return lose_range(range, "it was unmapped");
      piece->taken.set(page);
    }
  }
}

void FaultHandler::on_fault(uint64_t address) {
  switch (answer(address)) {
    case Outcome::done:
    case Outcome::gone:
      break;
    case Outcome::changing:
      deferred_.push_back(address);
      break;
    case Outcome::no_room:
      starved_.push_back(address);
      starving_ = true;
      // Room may have come between the attempt and the flag.
      if (shared_.side.free_pages() > 0) room_freed();
      break;
  }
}

Outcome FaultHandler::unprotect(Range range) {
  return shared_.protector->unprotect_rest(range) == EAGAIN ? Outcome::changing : Outcome::done;
}

Outcome FaultHandler::answer(uint64_t address) {
  Piece* piece = shared_.find(address);
  // Without a piece: memory that was moved here, or a piece given up.
  if (!piece) return unprotect({address, address + kPageSize});
  const std::lock_guard lock(piece->mutex);
  const size_t page = piece->index(address);
  if (!piece->fixed) return answer_before_instant(*piece, page);
  if (piece->taken[page] || shared_.lost) return unprotect({address, address + kPageSize});
  const PieceKeeper keeper = shared_.keeper();
  // A window at a time for a process that writes in order, up or down. One that writes here and there would soon have
  // filled the room with pages that it does not want, and have to wait for the copier.
  const bool in_order = (page > 0 && piece->taken[page - 1]) || (page + 1 < piece->pages() && piece->taken[page + 1]);
  if (!in_order || shared_.side.free_pages() <= kPiecePages) return keeper.save(*piece, page, page + 1);
  const size_t first = page / kWindowPages * kWindowPages;
  return keeper.save(*piece, first, std::min(first + kWindowPages, piece->pages()));
}

Outcome FaultHandler::answer_before_instant(Piece& piece, size_t page) {
  const size_t windows = piece.huge ? kHugeWindows : 1;
  const size_t first = page / kWindowPages / windows * windows;
  for (size_t i = first; i < first + windows; i++) piece.dirty.set(i);
  const uint64_t end = piece.address((first + windows) * kWindowPages);
  return unprotect({piece.address(first * kWindowPages), std::min(end, piece.range.end)});
}

void FaultHandler::lose_range(Range range, const char* what) {
  lose(fmt::format("{}: memory {} was not copied before {}", shared_.pid, range_name(range), what));
}

void FaultHandler::lose(std::string sentence) {
  if (shared_.lost) return;
  shared_.lost_sentence = std::move(sentence);
  shared_.lost = true;
}

}  // namespace ckpt
