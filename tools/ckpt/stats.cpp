// ckpt stats: the figures of the store.
#include <fmt/format.h>
#include <cstdio>

#include <nlohmann/json.hpp>

#include "engine/base/fd.h"
#include "engine/base/record.h"
#include "tools/ckpt/commands.h"

namespace ckpt::tool {

namespace {

Record stats_of_store(const Store& store) {
  const StoreStats stats = store.stats();
  Record r;
  r.add("images", stats.images);
  r.add("logical_bytes", stats.logical_bytes);
  r.add("unique_pages", stats.unique_pages);
  r.add("stored_bytes", stats.stored_bytes);
  r.add("index_bytes", stats.index_bytes);
  r.add("packs", stats.packs);
  return r;
}

/// A number where it is one, with or without a fraction.
nlohmann::json json_value(const std::string& text) {
  auto value = nlohmann::json::parse(text, nullptr, false);
  return value.is_number() ? value : nlohmann::json(text);
}

int stats(Session& session) {
  const Record record = session.on_store() ? stats_of_store(*session.store())
                                           : Record::parse(read_file(session.mount() + "/stats"), "stats");
  if (!session.json) {
    for (const auto& [name, value] : record.lines()) fmt::print("{} {}\n", name, escape(value));
    return kOk;
  }
  auto object = nlohmann::json::object();
  for (const auto& [name, value] : record.lines()) {
    object[name] = json_value(value);
  }
  std::printf("%s\n", object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  return kOk;
}

}  // namespace

void add_stats(CLI::App& app, Choice& choice) {
  auto* command = app.add_subcommand("stats", "Print the figures of the store");
  command->callback([&choice] { choice.run = stats; });
}

}  // namespace ckpt::tool
