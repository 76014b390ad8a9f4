// ckpt ls: the images of the mount or store, from their manifests.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "engine/base/record.h"
#include "tools/ckpt/commands.h"
#include "tools/ckpt/rows.h"

namespace ckpt::tool {

namespace {

void print_json(const std::vector<Row>& rows) {
  auto list = nlohmann::json::array();
  for (const Row& r : rows) {
    list.push_back({{"name", r.name},
                    {"pid", r.header.pid},
                    {"pids", r.header.pids},
                    {"command", r.header.command},
                    {"time", time_text(r.header.time_ns, kTimeForPrograms)},
                    {"time_ns", r.header.time_ns},
                    {"stop_ns", r.header.stop_ns},
                    {"bytes", r.bytes},
                    {"files", r.files},
                    {"uid", r.header.uid}});
  }
  std::printf("%s\n", list.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

void print_table(const std::vector<Row>& rows) {
  size_t width = 4;
  for (const Row& r : rows) width = std::max(width, r.name.size());
  if (!rows.empty())
    fmt::print("{:<{}}  {:>8}  {:<15}  {:<19}  {:>9}  {:>9}\n", "NAME", width, "PID", "COMMAND", "TIME",
               "SIZE", "STOPPED");
  for (const Row& r : rows) {
    fmt::print("{:<{}}  {:>8}  {:<15}  {:<19}  {:>9}  {:>9}\n", r.name, width, r.header.pid,
               escape(r.header.command), time_text(r.header.time_ns, kTimeForPeople),
               human_bytes(r.bytes), human_time(r.header.stop_ns));
  }
}

int ls(Session& session) {
  const auto rows = read_rows(session);
  session.json ? print_json(rows) : print_table(rows);
  return kOk;
}

}  // namespace

void add_ls(CLI::App& app, Choice& choice) {
  auto* command = app.add_subcommand("ls", "List the images");
  command->callback([&choice] { choice.run = ls; });
}

}  // namespace ckpt::tool
