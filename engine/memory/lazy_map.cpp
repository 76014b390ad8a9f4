#include "engine/memory/lazy_map.h"

#include <algorithm>
#include <vector>

namespace ckpt {

/// No entry reaches over `at`.
void LazyMap::split(uint64_t at) {
  auto it = entries_.lower_bound(at);
  if (it == entries_.begin()) return;
  --it;
  if (it->second.end <= at) return;
  const Entry rest{it->second.end, it->second.path, it->second.offset + (at - it->first)};
  it->second.end = at;
  entries_.emplace(at, rest);
}

void LazyMap::remove(Range range) {
  if (range.start >= range.end) return;
  split(range.start);
  split(range.end);
  const auto first = entries_.lower_bound(range.start), last = entries_.lower_bound(range.end);
  for (auto it = first; it != last; ++it) bytes_ -= it->second.end - it->first;
  entries_.erase(first, last);
}

void LazyMap::add(Range range, const Path& path, uint64_t offset) {
  if (range.start >= range.end) return;
  remove(range);
  bytes_ += range.size();
  const auto after = entries_.lower_bound(range.start);
  if (after != entries_.begin()) {
    Entry& before = std::prev(after)->second;
    const uint64_t start = std::prev(after)->first;
    if (before.end == range.start && before.path == path && before.offset + (range.start - start) == offset) {
      before.end = range.end;
      return;
    }
  }
  entries_.emplace(range.start, Entry{range.end, path, offset});
}

void LazyMap::move(Range from, uint64_t to) {
  split(from.start);
  split(from.end);
  std::vector<Piece> moved;
  for (auto it = entries_.lower_bound(from.start); it != entries_.end() && it->first < from.end; ++it) {
    const uint64_t start = to + (it->first - from.start);
    moved.push_back({{start, start + (it->second.end - it->first)}, it->second.path, it->second.offset});
  }
  remove(from);
  remove({to, to + from.size()});
  for (const Piece& piece : moved) add(piece.range, piece.path, piece.offset);
}

LazyMap::Entries::const_iterator LazyMap::find(uint64_t address) const {
  auto it = entries_.upper_bound(address);
  if (it == entries_.begin()) return entries_.end();
  --it;
  return it->second.end > address ? it : entries_.end();
}

LazyMap::Piece LazyMap::cut(Entries::const_iterator entry, Range to) {
  const uint64_t start = std::max(entry->first, to.start);
  return {{start, std::min(entry->second.end, to.end)}, entry->second.path, entry->second.offset + (start - entry->first)};
}

std::optional<LazyMap::Piece> LazyMap::at(uint64_t address, uint64_t window) const {
  const auto it = find(address);
  if (it == entries_.end()) return std::nullopt;
  const uint64_t start = address / window * window;
  return cut(it, {start, start + window});
}

std::optional<LazyMap::Piece> LazyMap::next(uint64_t address, uint64_t window) const {
  if (entries_.empty()) return std::nullopt;
  auto it = find(address);
  if (it == entries_.end()) it = entries_.lower_bound(address);
  if (it == entries_.end()) it = entries_.begin();
  const uint64_t start = std::max(it->first, address < it->second.end ? address : it->first);
  return cut(it, {start, (start / window + 1) * window});
}

}  // namespace ckpt
