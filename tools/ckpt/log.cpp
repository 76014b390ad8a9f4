// ckpt log: the images of one process over time.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "engine/base/error.h"
#include "engine/store/image_name.h"
#include "tools/ckpt/commands.h"
#include "tools/ckpt/rows.h"

namespace ckpt::tool {

namespace {

/// NAME itself, and NAME@K that had it before.
bool belongs_to(const std::string& image, const std::string& name) {
  return image == name || parse_earlier_name(image, name).has_value();
}

void print_json(const std::vector<Row>& rows) {
  auto list = nlohmann::json::array();
  for (const Row& r : rows) {
    nlohmann::json row{{"name", r.name},
                       {"time", time_text(r.header.time_ns, kTimeForPrograms)},
                       {"time_ns", r.header.time_ns},
                       {"stop_ns", r.header.stop_ns},
                       {"bytes", r.bytes}};
    if (r.header.new_bytes) row["new_bytes"] = *r.header.new_bytes;
    list.push_back(std::move(row));
  }
  std::printf("%s\n", list.dump(2).c_str());
}

void print_table(const std::vector<Row>& rows) {
  size_t width = 4;
  for (const Row& r : rows) width = std::max(width, r.name.size());
  fmt::print("{:<19}  {:<{}}  {:>9}  {:>9}  {:>9}\n", "TIME", "NAME", width, "STOPPED", "NEW", "SIZE");
  for (const Row& r : rows) {
    fmt::print("{:<19}  {:<{}}  {:>9}  {:>9}  {:>9}\n", time_text(r.header.time_ns, kTimeForPeople), r.name, width,
               human_time(r.header.stop_ns), r.header.new_bytes ? human_bytes(*r.header.new_bytes) : "-",
               human_bytes(r.bytes));
  }
}

int log(Session& session, const std::string& name) {
  auto rows = read_rows(session, [&](const std::string& image) { return belongs_to(image, name); });
  if (rows.empty()) fail(ENOENT, "{}: there is no image of that name", name);
  std::ranges::stable_sort(rows, {}, [](const Row& r) { return r.header.time_ns; });
  session.json ? print_json(rows) : print_table(rows);
  return kOk;
}

}  // namespace

void add_log(CLI::App& app, Choice& choice) {
  auto* command = app.add_subcommand("log", "Show the images of one process over time");
  auto name = std::make_shared<std::string>();
  command->add_option("NAME", *name, "Pid, or label of its images")->required();
  command->callback([name, &choice] { choice.run = [name](Session& s) { return log(s, *name); }; });
}

}  // namespace ckpt::tool
