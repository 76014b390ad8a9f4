#include "engine/base/record.h"

#include <algorithm>
#include <charconv>

#include "engine/base/error.h"

namespace ckpt {

namespace {

template <typename T>
std::optional<T> parse_digits(std::string_view text, int base) {
  T value{};
  const auto [end, err] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (err != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

bool is_octal(char c) { return c >= '0' && c <= '7'; }

}  // namespace

std::string escape(std::string_view raw) {
  std::string out;
  out.reserve(raw.size());
  for (const char c : raw) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f || c == '\\') {
      out += fmt::format("\\{:03o}", byte);
    } else {
      out += c;
    }
  }
  return out;
}

std::optional<std::string> unescape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      out += text[i];
      continue;
    }
    if (i + 3 >= text.size() || !is_octal(text[i + 1]) || !is_octal(text[i + 2]) || !is_octal(text[i + 3])) {
      return std::nullopt;
    }
    const int byte = (text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0');
    if (byte > 0xff) return std::nullopt;
    out += static_cast<char>(byte);
    i += 3;
  }
  return out;
}

std::optional<uint64_t> parse_u64(std::string_view text) {
  if (text.starts_with("0x")) return parse_digits<uint64_t>(text.substr(2), 16);
  return parse_digits<uint64_t>(text, 10);
}

std::optional<int64_t> parse_i64(std::string_view text) {
  if (text.starts_with("0x")) {
    const auto value = parse_digits<uint64_t>(text.substr(2), 16);
    if (!value || *value > INT64_MAX) return std::nullopt;
    return static_cast<int64_t>(*value);
  }
  return parse_digits<int64_t>(text, 10);
}

std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> words;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = text.find_first_not_of(" \t", i);
    if (begin == std::string_view::npos) break;
    const size_t end = std::min(text.find_first_of(" \t", begin), text.size());
    words.emplace_back(text.substr(begin, end - begin));
    i = end;
  }
  return words;
}

void Record::add(std::string_view name, std::string_view value) {
  lines_.emplace_back(name, value);
  text_.append(name).append(" ").append(escape(value)).append("\n");
}

void Record::add(std::string_view name, uint64_t value) { add(name, fmt::to_string(value)); }
void Record::add(std::string_view name, int64_t value) { add(name, fmt::to_string(value)); }
void Record::add_hex(std::string_view name, uint64_t value) { add(name, fmt::format("{:#x}", value)); }
void Record::comment(std::string_view text) { text_.append("# ").append(escape(text)).append("\n"); }

Record Record::parse(std::string_view text, std::string where) {
  Record r;
  r.where_ = std::move(where);
  size_t number = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    if (line.empty() || line[0] == '#') continue;
    const size_t space = line.find(' ');
    if (space == 0 || space == std::string_view::npos) {
      fail(EINVAL, "{}: line {} is not a name and a value", r.where_, number);
    }
    auto value = unescape(line.substr(space + 1));
    if (!value) fail(EINVAL, "{}: line {} has a malformed escape", r.where_, number);
    r.add(line.substr(0, space), *value);
  }
  return r;
}

std::optional<std::string> Record::find(std::string_view name) const {
  for (const auto& [key, value] : lines_) {
    if (key == name) return value;
  }
  return std::nullopt;
}

std::string Record::get(std::string_view name) const {
  auto value = find(name);
  if (!value) fail(EINVAL, "{}: the field '{}' is missing", where_, name);
  return *value;
}

uint64_t Record::get_u64(std::string_view name, uint64_t max) const {
  const std::string text = get(name);
  const auto value = parse_u64(text);
  if (!value || *value > max) fail(EINVAL, "{}: {} '{}' is not a number in range", where_, name, escape(text));
  return *value;
}

int64_t Record::get_i64(std::string_view name) const {
  const std::string text = get(name);
  const auto value = parse_i64(text);
  if (!value) fail(EINVAL, "{}: {} '{}' is not a number in range", where_, name, escape(text));
  return *value;
}

uint64_t Record::get_u64_or(std::string_view name, uint64_t fallback) const {
  return has(name) ? get_u64(name) : fallback;
}

int64_t Record::get_i64_or(std::string_view name, int64_t fallback) const {
  return has(name) ? get_i64(name) : fallback;
}

std::vector<uint64_t> Record::numbers(std::string_view value, size_t count) const {
  std::vector<uint64_t> out;
  for (const std::string& word : split_words(value)) {
    const auto number = parse_u64(word);
    if (!number) fail(EINVAL, "{}: '{}' in '{}' is not a number", where_, escape(word), escape(value));
    out.push_back(*number);
  }
  if (out.size() != count) fail(EINVAL, "{}: '{}' should be {} numbers", where_, escape(value), count);
  return out;
}

std::vector<std::string> Record::all(std::string_view name) const {
  std::vector<std::string> values;
  for (const auto& [key, value] : lines_) {
    if (key == name) values.push_back(value);
  }
  return values;
}

}  // namespace ckpt
