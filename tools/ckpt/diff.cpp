// ckpt diff: two images, as diff(1).
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "engine/base/record.h"
#include "tools/ckpt/commands.h"
#include "tools/ckpt/compare.h"
#include "tools/ckpt/progress.h"

namespace ckpt::tool {

namespace {

const char* side_name(Side side) {
  return side == Side::both ? "changed" : side == Side::only_a ? "only in the first" : "only in the second";
}

std::string values(const std::vector<std::string>& list) {
  return list.empty() ? "(none)" : escape(fmt::format("{}", fmt::join(list, ", ")));
}

void print_records(const char* title, const std::vector<RecordDifference>& records) {
  if (records.empty()) return;
  fmt::print("{}:\n", title);
  for (const RecordDifference& r : records) {
    fmt::print("  {}{}\n", escape(r.path), r.fields.empty() ? fmt::format(" {}", side_name(r.side)) : ":");
    for (const FieldDifference& f : r.fields)
      fmt::print("    {}: {} -> {}\n", f.name, values(f.a), values(f.b));
  }
}

void print_text(const Comparison& c) {
  if (!c.segments.empty()) fmt::print("memory (pages of 4 KiB):\n");
  for (const SegmentDifference& s : c.segments) {
    fmt::print("  {}{:x}-{:x}{}: {} changed", s.process, s.start, s.end,
               s.mapping.empty() ? "" : " " + escape(s.mapping), s.changed);
    if (s.only_a) fmt::print(", {} only in the first", s.only_a);
    if (s.only_b) fmt::print(", {} only in the second", s.only_b);
    fmt::print("\n");
  }
  print_records("descriptors", c.descriptors);
  print_records("registers", c.registers);
  print_records("other files", c.others);
}

nlohmann::json json_of(const std::vector<RecordDifference>& records) {
  auto list = nlohmann::json::array();
  for (const RecordDifference& r : records) {
    auto fields = nlohmann::json::array();
    for (const FieldDifference& f : r.fields) fields.push_back({{"name", f.name}, {"a", f.a}, {"b", f.b}});
    list.push_back({{"path", r.path},
                    {"in", r.side == Side::both     ? "both"
                           : r.side == Side::only_a ? "a"
                                                    : "b"},
                    {"fields", std::move(fields)}});
  }
  return list;
}

void print_json(const Comparison& c) {
  auto segments = nlohmann::json::array();
  for (const SegmentDifference& s : c.segments) {
    segments.push_back({{"process", s.process},
                        {"start", fmt::format("{:#x}", s.start)},
                        {"end", fmt::format("{:#x}", s.end)},
                        {"mapping", s.mapping},
                        {"pages_changed", s.changed},
                        {"pages_only_a", s.only_a},
                        {"pages_only_b", s.only_b}});
  }
  const nlohmann::json all{{"same", c.same()},
                           {"segments", std::move(segments)},
                           {"descriptors", json_of(c.descriptors)},
                           {"registers", json_of(c.registers)},
                           {"others", json_of(c.others)}};
  fmt::print("{}\n", all.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

int diff(Session& session, const std::string& a, const std::string& b) {
  const auto image_a = session.open_image(a);
  const auto image_b = session.open_image(b);
  const Comparison comparison = [&] {
    ProgressLine progress("diff");
    return compare_images(*image_a, *image_b, progress.callback());
  }();
  session.json ? print_json(comparison) : print_text(comparison);
  return comparison.same() ? kOk : kFailed;
}

}  // namespace

void add_diff(CLI::App& app, Choice& choice) {
  auto* command = app.add_subcommand("diff", "Show what differs between two images");
  auto words = std::make_shared<std::pair<std::string, std::string>>();
  command->add_option("A", words->first, "Image name or directory")->required();
  command->add_option("B", words->second, "Image name or directory")->required();
  command->callback([words, &choice] {
    choice.trouble = kUsage;
    choice.run = [words](Session& s) { return diff(s, words->first, words->second); };
  });
}

}  // namespace ckpt::tool
