// The text format of an image: one `name value` a line, as in /proc/PID/status without the colon.
//
//   Record r;
//   r.add("type", "file");
//   r.add("path", "/var/log/a b\n");        // stored as /var/log/a b\012
//   r.add_hex("flags", O_RDWR);             // 0x2
//   Record back = Record::parse(r.text(), "fds/3");
//   back.get_u64("flags");
//
// A name may stand on several lines (a list). Lines that are empty or start with '#' are comments. Values run to
// the end of the line; newline, backslash and control bytes are written as \ooo, as in /proc/mounts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ckpt {

class Record {
 public:
  void add(std::string_view name, std::string_view value);
  void add(std::string_view name, const char* value) { add(name, std::string_view(value)); }
  void add(std::string_view name, uint64_t value);
  void add(std::string_view name, int64_t value);
  void add(std::string_view name, uint32_t value) { add(name, uint64_t{value}); }
  void add(std::string_view name, int32_t value) { add(name, int64_t{value}); }
  void add_hex(std::string_view name, uint64_t value);
  /// A comment line for the human reader; not kept by parse().
  void comment(std::string_view text);

  /// The file's text, in the order of the add() calls.
  std::string text() const { return text_; }

  /// Parses a file of an image. `where` (the file's path) starts every message. Throws Error(EINVAL) on a line
  /// without a value separator or with a malformed escape. Hostile input is expected here.
  static Record parse(std::string_view text, std::string where);

  bool has(std::string_view name) const { return find(name).has_value(); }
  std::optional<std::string> find(std::string_view name) const;
  /// These throw Error(EINVAL) that names the file and the field when it is missing, or is no number, or is out
  /// of range. Numbers may be decimal, or hexadecimal with 0x.
  std::string get(std::string_view name) const;
  uint64_t get_u64(std::string_view name, uint64_t max = UINT64_MAX) const;
  int64_t get_i64(std::string_view name) const;
  uint64_t get_u64_or(std::string_view name, uint64_t fallback) const;
  int64_t get_i64_or(std::string_view name, int64_t fallback) const;
  /// Exactly `count` numbers that stand on the line, separated by blanks.
  std::vector<uint64_t> get_numbers(std::string_view name, size_t count) const { return numbers(get(name), count); }
  /// The same for one value of a name that may repeat.
  std::vector<uint64_t> numbers(std::string_view value, size_t count) const;
  /// Every value of a name that may repeat.
  std::vector<std::string> all(std::string_view name) const;
  const std::vector<std::pair<std::string, std::string>>& lines() const { return lines_; }
  const std::string& where() const { return where_; }

 private:
  std::string where_;
  std::string text_;
  std::vector<std::pair<std::string, std::string>> lines_;
};

/// \ooo escapes for newline, backslash and control bytes, and back. unescape returns nothing on a malformed one.
std::string escape(std::string_view raw);
std::optional<std::string> unescape(std::string_view text);

/// Strict number parsing: the whole text must be one number that fits; decimal or 0x hexadecimal.
std::optional<uint64_t> parse_u64(std::string_view text);
std::optional<int64_t> parse_i64(std::string_view text);

/// Words separated by spaces or tabs.
std::vector<std::string> split_words(std::string_view text);

}  // namespace ckpt
