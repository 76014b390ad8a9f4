// Parsing a manifest. It comes from archives that anybody may have written, so nothing is built from it but what the
// fields say: events of the JSON parser go straight into the header and the list, memory is bounded by the text's
// size, and a field that stands twice, is of a wrong type or out of range is refused by name.
#include <algorithm>
#include <ctime>
#include <nlohmann/json.hpp>

#include "engine/base/error.h"
#include "engine/base/record.h"
#include "engine/image/manifest.h"
#include "engine/image/manifest_text.h"

namespace ckpt {

namespace {

using Json = nlohmann::json;

constexpr size_t kMaxManifest = 256 << 20;
constexpr size_t kMaxDepth = 16;
constexpr size_t kMaxText = 64 << 10;
constexpr uint64_t kMaxPid = 4 << 20;  // PID_MAX_LIMIT of the kernel, include/linux/threads.h
constexpr uint64_t kMaxSize = INT64_MAX;

class ManifestParser : public nlohmann::json_sax<Json> {
 public:
  explicit ManifestParser(const std::string& where) : where_(where) {}

  Manifest finish();

  bool null() override { return other(); }
  bool boolean(bool value) override;
  bool number_integer(number_integer_t) override { return other(); }
  bool number_float(number_float_t, const string_t&) override { return other(); }
  bool binary(binary_t&) override { return other(); }
  bool number_unsigned(number_unsigned_t value) override;
  bool string(string_t& value) override;
  bool start_object(size_t) override;
  bool end_object() override;
  bool key(string_t& name) override;
  bool start_array(size_t) override;
  bool end_array() override;
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    // What it read last may be all of it.
    fail(EINVAL, "{}: not a manifest: malformed JSON at byte {} ({:.200})", where_, position, escape(e.what()));
  }

 private:
  enum class Place { outside, header, pids, files, file, ignored };

  // A field with a value of a type that none of our fields has: an error, unless the field is unknown (a later
  // version of the same format may add some).
  bool other() {
    if (place_ != Place::ignored && !ignore_next_) refuse_type();
    ignore_next_ = false;
    return true;
  }
  [[noreturn]] void refuse_type() const {
    fail(EINVAL, "{}: {} has a value of the wrong type or out of range", where_, place_name());
  }
  std::string place_name() const {
    switch (place_) {
      case Place::outside: return "the manifest";
      case Place::files: return "\"files\"";
      case Place::file: return fmt::format("\"{}\" of {}", key_, escape(path_));
      default: return fmt::format("\"{}\"", key_);
    }
  }
  uint64_t limited(uint64_t value, uint64_t min, uint64_t max) const {
    if (value < min || value > max) refuse_type();
    return value;
  }
  std::string raw_text(const std::string& value) const {
    if (value.size() > kMaxText) fail(EINVAL, "{}: {} is too long", where_, place_name());
    const std::optional<std::string> raw = unescape(value);
    if (!raw) fail(EINVAL, "{}: {} has a malformed escape", where_, place_name());
    return *raw;
  }
  void header_number(uint64_t value);
  void header_text(const std::string& value);
  void begin_file(const std::string& name);
  void end_file();
  void enter_unknown() {
    if (++ignored_depth_ > kMaxDepth) fail(EINVAL, "{}: nested too deeply", where_);
    if (ignored_depth_ == 1) before_ignored_ = place_;
    place_ = Place::ignored;
    ignore_next_ = false;
  }
  bool leave_unknown() {
    if (place_ != Place::ignored) return false;
    if (--ignored_depth_ == 0) place_ = before_ignored_;
    return true;
  }
  bool seen(std::string_view name) const {
    return std::find(header_keys_.begin(), header_keys_.end(), name) != header_keys_.end();
  }

  const std::string& where_;
  Manifest out_;
  Place place_ = Place::outside, before_ignored_ = Place::outside;
  size_t ignored_depth_ = 0;
  bool ignore_next_ = false;   // the value that follows belongs to an unknown field
  bool complete_ = false;
  std::string key_;
  std::vector<std::string> header_keys_;
  std::string path_;
  ManifestFile file_;
  std::vector<std::string> file_keys_;
};

bool is_any_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool ManifestParser::key(string_t& name) {
  if (place_ == Place::ignored) return true;
  if (place_ == Place::files) {
    begin_file(name);
    return true;
  }
  key_ = name.substr(0, 64);
  std::vector<std::string>& keys = place_ == Place::file ? file_keys_ : header_keys_;
  if (std::find(keys.begin(), keys.end(), name) != keys.end()) {
    fail(EINVAL, "{}: {} stands there twice", where_, place_name());
  }
  if (keys.size() >= 64) fail(EINVAL, "{}: too many fields", where_);
  keys.push_back(name);
  ignore_next_ = place_ == Place::file
                     ? !is_any_of(name, {"type", "size", "digest"})
                     : !is_any_of(name, {"format", "digest", "machine", "kernel", "hostname", "engine", "time", "stop_ns",
                                         "new_bytes", "xfeatures", "pid", "pids", "command", "memory", "uid", "gid", "files"});
  return true;
}

bool ManifestParser::number_unsigned(number_unsigned_t value) {
  if (place_ == Place::ignored || ignore_next_) return other();
  if (place_ == Place::pids) {
    const int pid = static_cast<int>(limited(value, 1, kMaxPid));
    out_.header.pids.push_back(pid);
  } else if (place_ == Place::header) {
    header_number(value);
  } else if (place_ == Place::file && key_ == "size") {
    file_.size = limited(value, 0, kMaxSize);
  } else {
    refuse_type();
  }
  return true;
}

void ManifestParser::header_number(uint64_t value) {
  ManifestHeader& h = out_.header;
  if (key_ == "format") {
    h.format = static_cast<int>(limited(value, 1, INT32_MAX));
    // At once: what follows may be anything in another version.
    if (h.format != kFormatVersion) {
      fail(EPROTONOSUPPORT, "{}: image format {} is not supported, only {}", where_, h.format, kFormatVersion);
    }
  } else if (key_ == "stop_ns") {
    h.stop_ns = value;
  } else if (key_ == "new_bytes") {
    h.new_bytes = value;
  } else if (key_ == "pid") {
    h.pid = static_cast<int>(limited(value, 1, kMaxPid));
  } else if (key_ == "uid") {
    h.uid = static_cast<uint32_t>(limited(value, 0, UINT32_MAX - 1));  // -1 means "no change" in chown(2)
  } else if (key_ == "gid") {
    h.gid = static_cast<uint32_t>(limited(value, 0, UINT32_MAX - 1));
  } else {
    refuse_type();
  }
}

bool ManifestParser::boolean(bool value) {
  if (place_ != Place::header || key_ != "memory") return other();
  out_.header.memory = value;
  return true;
}

bool ManifestParser::string(string_t& value) {
  if (place_ == Place::ignored || ignore_next_) return other();
  if (place_ == Place::header) {
    header_text(value);
  } else if (place_ == Place::file && key_ == "type") {
    if (value != "file" && value != "link") refuse_type();
    file_.type = value == "file" ? EntryType::file : EntryType::symlink;
  } else if (place_ == Place::file && key_ == "digest") {
    try {
      file_.digest = Digest::from_hex(value);
    } catch (const Error& e) {
      fail(EINVAL, "{}: {}: {}", where_, escape(path_), e.sentence());
    }
  } else {
    refuse_type();
  }
  return true;
}

void ManifestParser::header_text(const std::string& value) {
  ManifestHeader& h = out_.header;
  if (key_ == "digest") {
    if (value != kDigestScheme) {
      fail(EPROTONOSUPPORT, "{}: digests of the kind \"{}\" are not supported", where_, escape(value.substr(0, 64)));
    }
  } else if (key_ == "machine") {
    h.machine = raw_text(value);
  } else if (key_ == "kernel") {
    h.kernel = raw_text(value);
  } else if (key_ == "hostname") {
    h.hostname = raw_text(value);
  } else if (key_ == "engine") {
    h.engine = raw_text(value);
  } else if (key_ == "command") {
    h.command = raw_text(value);
  } else if (key_ == "time") {
    const std::optional<uint64_t> time = parse_time(value);
    if (!time) refuse_type();
    h.time_ns = *time;
  } else if (key_ == "xfeatures") {
    const std::optional<uint64_t> bits = parse_u64(value);
    if (!bits) refuse_type();
    h.xfeatures = *bits;
  } else {
    refuse_type();
  }
}

bool ManifestParser::start_object(size_t) {
  if (place_ == Place::ignored || ignore_next_) {
    enter_unknown();
  } else if (place_ == Place::outside) {
    place_ = Place::header;
  } else if (place_ == Place::header && key_ == "files") {
    place_ = Place::files;
  } else if (place_ == Place::files) {
    place_ = Place::file;
    file_ = {};
    file_keys_.clear();
  } else {
    refuse_type();
  }
  return true;
}

bool ManifestParser::end_object() {
  if (leave_unknown()) return true;
  if (place_ == Place::file) {
    end_file();
    place_ = Place::files;
  } else if (place_ == Place::files) {
    place_ = Place::header;
  } else {
    place_ = Place::outside;
    complete_ = true;
  }
  return true;
}

bool ManifestParser::start_array(size_t) {
  if (place_ == Place::ignored || ignore_next_) {
    enter_unknown();
  } else if (place_ == Place::header && key_ == "pids") {
    place_ = Place::pids;
  } else {
    refuse_type();
  }
  return true;
}

bool ManifestParser::end_array() {
  if (!leave_unknown()) place_ = Place::header;
  return true;
}

void ManifestParser::begin_file(const std::string& name) {
  path_ = name.substr(0, 4096);
  const std::optional<std::string> raw = unescape(name);
  if (!raw || !valid_image_path(*raw)) {
    fail(EINVAL, "{}: \"{}\" is not a path that an image may have", where_, escape(path_));
  }
  path_ = *raw;
  if (path_ == kManifestName) fail(EINVAL, "{}: the manifest lists itself", where_);
  if (out_.files.contains(path_)) fail(EINVAL, "{}: {} stands there twice", where_, escape(path_));
  key_.clear();
}

void ManifestParser::end_file() {
  for (const std::string_view needed : {"type", "size", "digest"}) {
    if (std::find(file_keys_.begin(), file_keys_.end(), needed) == file_keys_.end()) {
      fail(EINVAL, "{}: {} has no \"{}\"", where_, escape(path_), needed);
    }
  }
  out_.files.emplace(path_, file_);
}

// A path cannot be a file and a directory.
void check_tree(const Manifest& m, const std::string& where) {
  for (const auto& [path, file] : m.files) {
    for (size_t slash = path.find('/'); slash != path.npos; slash = path.find('/', slash + 1)) {
      const std::string_view dir = std::string_view(path).substr(0, slash);
      if (m.files.contains(dir) || dir == kManifestName) {
        fail(EINVAL, "{}: {} is both a file and a directory", where, escape(dir));
      }
    }
  }
}

Manifest ManifestParser::finish() {
  if (!complete_) fail(EINVAL, "{}: not a manifest: no JSON object", where_);
  for (const std::string_view needed : {"format", "digest", "machine", "pid", "pids", "files"}) {
    if (!seen(needed)) fail(EINVAL, "{}: not a manifest: \"{}\" is missing", where_, needed);
  }
  std::vector<int> pids = out_.header.pids;
  if (pids.empty() || pids.front() != out_.header.pid) {
    fail(EINVAL, "{}: \"pids\" does not begin with the root process {}", where_, out_.header.pid);
  }
  std::sort(pids.begin(), pids.end());
  if (std::adjacent_find(pids.begin(), pids.end()) != pids.end()) {
    fail(EINVAL, "{}: \"pids\" has a process twice", where_);
  }
  check_tree(out_, where_);
  return std::move(out_);
}

}  // namespace

std::optional<uint64_t> parse_time(std::string_view text) {
  // 2026-11-23T19:57:00.000000000Z, every field at its column.
  static constexpr std::string_view shape = "dddd-dd-ddTdd:dd:dd.dddddddddZ";
  if (text.size() != shape.size()) return std::nullopt;
  for (size_t i = 0; i < shape.size(); ++i) {
    const bool digit = text[i] >= '0' && text[i] <= '9';
    if (shape[i] == 'd' ? !digit : text[i] != shape[i]) return std::nullopt;
  }
  const auto number = [&](size_t at, size_t n) { return static_cast<int>(*parse_u64(text.substr(at, n))); };
  tm utc{};
  utc.tm_year = number(0, 4) - 1900;
  utc.tm_mon = number(5, 2) - 1;
  utc.tm_mday = number(8, 2);
  utc.tm_hour = number(11, 2);
  utc.tm_min = number(14, 2);
  utc.tm_sec = number(17, 2);
  const int64_t seconds = timegm(&utc);
  // timegm normalizes a 31st of June, and the year 2554 is the last that fits into nanoseconds.
  if (seconds < 0 || static_cast<uint64_t>(seconds) >= UINT64_MAX / 1'000'000'000) return std::nullopt;
  const uint64_t time = static_cast<uint64_t>(seconds) * 1'000'000'000 + *parse_u64(text.substr(20, 9));
  return format_time(time) == text ? std::optional(time) : std::nullopt;
}

Manifest Manifest::parse(std::string_view json, const std::string& where) {
  if (json.size() > kMaxManifest) fail(EINVAL, "{}: a manifest of {} bytes is too large", where, json.size());
  ManifestParser parser(where);
  Json::sax_parse(json, &parser);
  return parser.finish();
}

}  // namespace ckpt
