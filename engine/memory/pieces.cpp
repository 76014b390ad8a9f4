#include "engine/memory/pieces.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace ckpt {

size_t PieceTable::first_ending_after(uint64_t address) const {
  const auto it = std::upper_bound(pieces_.begin(), pieces_.end(), address,
                                   [](uint64_t a, const auto& piece) { return a < piece->range.end; });
  return static_cast<size_t>(it - pieces_.begin());
}

Piece* PieceTable::find(uint64_t address) const {
  const size_t i = first_ending_after(address);
  return i < pieces_.size() && pieces_[i]->range.start <= address ? pieces_[i].get() : nullptr;
}

std::vector<Piece*> PieceTable::overlapping(Range range) const {
  std::vector<Piece*> out;
  for (size_t i = first_ending_after(range.start); i < pieces_.size() && pieces_[i]->range.start < range.end; i++) {
    out.push_back(pieces_[i].get());
  }
  return out;
}

std::vector<Piece*> PieceTable::all() const {
  std::vector<Piece*> out;
  out.reserve(pieces_.size());
  for (const auto& piece : pieces_) out.push_back(piece.get());
  return out;
}

void PieceTable::insert(std::vector<std::unique_ptr<Piece>> pieces) {
  for (auto& piece : pieces) pieces_.push_back(std::move(piece));
  std::sort(pieces_.begin(), pieces_.end(), [](auto& a, auto& b) { return a->range.start < b->range.start; });
}

void PieceTable::drop(Piece* piece) {
  const auto it = std::find_if(pieces_.begin(), pieces_.end(), [&](auto& p) { return p.get() == piece; });
  if (it == pieces_.end()) return;
  dropped_.push_back(std::move(*it));
  pieces_.erase(it);
}

std::vector<std::unique_ptr<Piece>> cut_pieces(Range mapping, const std::vector<Range>& runs) {
  std::vector<std::unique_ptr<Piece>> pieces;
  uint64_t done = mapping.start;
  for (const Range& run : runs) {
    for (uint64_t at = std::max(run.start, done); at < run.end; at = done) {
      const uint64_t slot = at / kPieceBytes * kPieceBytes;
      const uint64_t start = std::max(slot, mapping.start);
      done = std::min(slot + kPieceBytes, mapping.end);
      pieces.push_back(std::make_unique<Piece>(Range{start, done}));
    }
  }
  return pieces;
}

Outcome PieceKeeper::outcome_of(int err) {
  switch (err) {
    case 0: return Outcome::done;
    case ESRCH: return Outcome::gone;
    default: return Outcome::changing;   // EAGAIN; or what is gone already (ENOENT, EFAULT, EIO): an event will tell
  }
}

Outcome PieceKeeper::scan(Piece& piece) const {
  if (piece.scanned) return Outcome::done;
  std::bitset<kPiecePages> present;
  for (const Range& run : scanner_.content(piece.range)) {
    for (size_t page = piece.index(run.start); page < piece.index(run.end); page++) present.set(page);
  }
  // Protecting a page that is protected changes nothing, and tells whether the mapping changed meanwhile.
  const Outcome outcome = outcome_of(protector_.protect({piece.range.start, piece.range.start + kPageSize}));
  if (outcome != Outcome::done) return outcome;
  piece.present = present;
  piece.scanned = true;
  return Outcome::done;
}

size_t PieceKeeper::run_end(const Piece& piece, size_t first, size_t last) {
  size_t end = first;
  while (end < last && piece.taken[end] == piece.taken[first]) end++;
  return end;
}

Outcome PieceKeeper::copy_aside(const Piece& piece, size_t first, size_t last, Copied& copied) const {
  std::array<std::byte, kPageSize> buffer;
  for (size_t page = first; page < last; page++) {
    if (!piece.present[page]) continue;
    const int err = memory_.try_read(piece.address(page), buffer);
    if (err != 0) return outcome_of(err);
    const auto slot = side_.keep(buffer);
    if (!slot) return Outcome::no_room;
    copied.emplace_back(page, *slot);
  }
  return Outcome::done;
}

Outcome PieceKeeper::save_run(Piece& piece, size_t first, size_t last, bool unprotect) const {
  Copied copied;
  Outcome outcome = copy_aside(piece, first, last, copied);
  if (outcome == Outcome::done && unprotect) {
    outcome = outcome_of(protector_.unprotect({piece.address(first), piece.address(last)}));
  }
  if (outcome != Outcome::done) {
    for (const auto& [page, slot] : copied) side_.drop(slot);
    return outcome;
  }
  for (const auto& [page, slot] : copied) piece.side[page] = slot;
  for (size_t page = first; page < last; page++) piece.taken.set(page);
  return Outcome::done;
}

Outcome PieceKeeper::save_runs(Piece& piece, size_t first, size_t last, bool unprotect) const {
  for (size_t page = first; page < last;) {
    const size_t end = run_end(piece, page, last);
    if (!piece.taken[page]) {
      const Outcome outcome = save_run(piece, page, end, unprotect);
      if (outcome != Outcome::done) return outcome;
    }
    page = end;
  }
  return Outcome::done;
}

Outcome PieceKeeper::save(Piece& piece, size_t first, size_t last) const {
  const Outcome outcome = scan(piece);
  return outcome == Outcome::done ? save_runs(piece, first, last, true) : outcome;
}

Outcome PieceKeeper::save_early(Piece& piece, size_t page) const {
  if (piece.taken[page]) return Outcome::done;
  piece.present.set(page);   // or it would not be copied; the scan will tell the truth
  return save_run(piece, page, page + 1, true);
}

Outcome PieceKeeper::save_before_removal(Piece& piece, size_t first, size_t last) const {
  // A scan cannot be confirmed now; the copier makes it soon after the instant.
  return piece.scanned ? save_runs(piece, first, last, false) : Outcome::changing;
}

Outcome PieceKeeper::fetch_run(Piece& piece, size_t first, size_t last, std::byte* out) const {
  for (size_t page = first; page < last;) {
    size_t end = page;
    while (end < last && piece.present[end] == piece.present[page]) end++;
    std::byte* to = out + (page - first) * kPageSize;
    const size_t length = (end - page) * kPageSize;
    if (piece.present[page]) {
      const int err = memory_.try_read(piece.address(page), {to, length});
      if (err != 0) return outcome_of(err);
    } else {
      std::memset(to, 0, length);
    }
    page = end;
  }
  const Outcome outcome = outcome_of(protector_.unprotect({piece.address(first), piece.address(last)}));
  if (outcome != Outcome::done) return outcome;
  for (size_t page = first; page < last; page++) piece.taken.set(page);
  return Outcome::done;
}

void PieceKeeper::fetch_taken(Piece& piece, size_t page, std::byte* out) const {
  const auto kept = piece.side.find(page);
  if (kept == piece.side.end()) {
    std::memset(out, 0, kPageSize);
    return;
  }
  side_.take(kept->second, out);
  piece.side.erase(kept);
}

Outcome PieceKeeper::fetch(Piece& piece, size_t first, size_t last, std::byte* out, size_t& fetched) const {
  fetched = 0;
  if (const Outcome outcome = scan(piece); outcome != Outcome::done) return outcome;
  for (size_t page = first; page < last;) {
    const size_t end = run_end(piece, page, last);
    if (!piece.taken[page]) {
      const Outcome outcome = fetch_run(piece, page, end, out + (page - first) * kPageSize);
      if (outcome != Outcome::done) return outcome;
    } else {
      for (size_t i = page; i < end; i++) fetch_taken(piece, i, out + (i - first) * kPageSize);
    }
    page = end;
    fetched = page - first;
  }
  return Outcome::done;
}

}  // namespace ckpt
