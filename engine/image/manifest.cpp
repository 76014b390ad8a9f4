#include "engine/image/manifest.h"

#include <fmt/format.h>

#include <ctime>
#include <nlohmann/json.hpp>

#include "engine/base/record.h"
#include "engine/image/manifest_text.h"

namespace ckpt {

namespace {

bool valid_utf8(std::string_view text) {
  // The library's own check, by asking it to write the text.
  try {
    nlohmann::json(std::string(text)).dump();
    return true;
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
}

std::string quote(std::string_view raw) { return nlohmann::json(json_safe(raw)).dump(); }

}  // namespace

std::string json_safe(std::string_view raw) {
  const std::string escaped = escape(raw);
  if (valid_utf8(escaped)) return escaped;
  std::string out;
  for (const char c : escaped) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x80) {
      out += fmt::format("\\{:03o}", byte);
    } else {
      out += c;
    }
  }
  return out;
}

std::string format_time(uint64_t time_ns) {
  const auto seconds = static_cast<time_t>(time_ns / 1'000'000'000);
  tm utc{};
  gmtime_r(&seconds, &utc);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday,
                     utc.tm_hour, utc.tm_min, utc.tm_sec, time_ns % 1'000'000'000);
}

std::string Manifest::to_json() const {
  const ManifestHeader& h = header;
  std::string out = "{\n";
  const auto field = [&](std::string_view name, const std::string& json) {
    out += fmt::format("  \"{}\": {},\n", name, json);
  };
  field("format", std::to_string(h.format));
  field("digest", quote(kDigestScheme));
  field("machine", quote(h.machine));
  field("kernel", quote(h.kernel));
  field("hostname", quote(h.hostname));
  field("engine", quote(h.engine));
  field("time", quote(format_time(h.time_ns)));
  field("stop_ns", std::to_string(h.stop_ns));
  if (h.new_bytes) field("new_bytes", std::to_string(*h.new_bytes));
  field("xfeatures", quote(fmt::format("{:#x}", h.xfeatures)));
  field("pid", std::to_string(h.pid));
  field("pids", fmt::format("[{}]", fmt::join(h.pids, ", ")));
  field("command", quote(h.command));
  if (!h.memory) field("memory", "false");
  field("uid", std::to_string(h.uid));
  field("gid", std::to_string(h.gid));
  out += "  \"files\": {";
  // One file a line, so that diff(1) shows what differs between two images.
  const char* separator = "\n";
  for (const auto& [path, file] : files) {
    out += fmt::format("{}    {}: {{\"type\": \"{}\", \"size\": {}, \"digest\": \"{}\"}}", separator, quote(path),
                       file.type == EntryType::file ? "file" : "link", file.size, file.digest.hex());
    separator = ",\n";
  }
  out += "\n  }\n}\n";
  return out;
}

}  // namespace ckpt
