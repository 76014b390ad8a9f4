#include "ckptfs/command_log.h"

#include <fmt/format.h>

#include <algorithm>

namespace ckpt {

namespace {

template <typename Lines, typename Wanted>
std::string newest(const Lines& lines, size_t limit, const Wanted& wanted) {
  std::string text;
  size_t skip = static_cast<size_t>(std::ranges::count_if(lines, wanted));
  skip -= std::min(skip, limit);
  for (const auto& line : lines) {
    if (!wanted(line)) continue;
    if (skip > 0) {
      --skip;
    } else {
      text += line.text + "\n";
    }
  }
  return text;
}

/// A name that somebody has made up must not look like another line, nor speak to a terminal.
std::string one_line(std::string_view text) {
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      line += fmt::format("\\{:03o}", byte);
    } else {
      line += c;
    }
  }
  return line;
}

}  // namespace

void CommandLog::add(const LogKey& key, std::string_view line) {
  const std::lock_guard lock(mutex_);
  const auto same_user = [&](const Line& l) { return l.key.uid == key.uid; };
  if (static_cast<size_t>(std::ranges::count_if(lines_, same_user)) >= kMaxLinesOfAUser) {
    lines_.erase(std::ranges::find_if(lines_, same_user));
  }
  if (lines_.size() >= kMaxLines) lines_.pop_front();
  lines_.push_back({key, one_line(line)});
}

std::string CommandLog::read(const LogKey& reader) const {
  const std::lock_guard lock(mutex_);
  if (reader.handle != 0) {
    const auto of_handle = [&](const Line& l) { return l.key.handle == reader.handle; };
    if (std::ranges::any_of(lines_, of_handle)) return newest(lines_, kMaxLinesRead, of_handle);
  }
  const auto of_user = [&](const Line& l) { return l.key.uid == reader.uid; };
  const auto of_session = [&](const Line& l) { return of_user(l) && l.key.session == reader.session; };
  if (std::ranges::any_of(lines_, of_session)) return newest(lines_, kMaxLinesRead, of_session);
  return newest(lines_, kMaxLinesRead, of_user);
}

}  // namespace ckpt
