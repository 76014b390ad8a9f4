// ckpt ls: the images of the mount or store, from their manifests.
#include <dirent.h>
#include <fcntl.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/base/record.h"
#include "tools/ckpt/commands.h"

namespace ckpt::tool {

namespace {

struct Row {
  std::string name;
  ManifestHeader header;
  uint64_t files = 0;
  uint64_t bytes = 0;
};

std::vector<std::string> names_in(const std::string& dir) {
  const std::unique_ptr<DIR, int (*)(DIR*)> d(::opendir(dir.c_str()), ::closedir);
  if (!d) fail_errno("{}", dir);
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(d.get())) {
    if (entry->d_name[0] != '.') names.push_back(entry->d_name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// Images that the caller may not read are others' and are left out, as are those deleted meanwhile.
std::vector<Row> rows_of_mount(const std::string& mount) {
  std::vector<Row> rows;
  for (const std::string& name : names_in(mount + "/images")) {
    const std::string path = mount + "/images/" + name + "/manifest";
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) {
      if (errno == EACCES || errno == ENOENT) continue;
      fail_errno("{}", path);
    }
    const Manifest manifest = Manifest::parse(read_all(fd.get(), path), path);
    Row row{name, manifest.header, manifest.files.size(), 0};
    for (const auto& [file, info] : manifest.files) row.bytes += info.size;
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<Row> rows_of_store(const Store& store) {
  std::vector<Row> rows;
  for (const ImageInfo& info : store.images())
    rows.push_back({info.name, info.header, info.files, info.logical_bytes});
  return rows;
}

std::string time_text(uint64_t time_ns, const char* format) {
  const auto seconds = static_cast<time_t>(time_ns / 1'000'000'000);
  struct tm tm {};
  ::localtime_r(&seconds, &tm);
  char text[64];
  const size_t size = std::strftime(text, sizeof text, format, &tm);
  return {text, size};
}

void print_json(const std::vector<Row>& rows) {
  auto list = nlohmann::json::array();
  for (const Row& r : rows) {
    list.push_back({{"name", r.name},
                    {"pid", r.header.pid},
                    {"pids", r.header.pids},
                    {"command", r.header.command},
                    {"time", time_text(r.header.time_ns, "%Y-%m-%dT%H:%M:%S%z")},
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
               escape(r.header.command), time_text(r.header.time_ns, "%Y-%m-%d %H:%M:%S"),
               human_bytes(r.bytes), human_time(r.header.stop_ns));
  }
}

int ls(Session& session) {
  const auto rows = session.on_store() ? rows_of_store(*session.store()) : rows_of_mount(session.mount());
  session.json ? print_json(rows) : print_table(rows);
  return kOk;
}

}  // namespace

void add_ls(CLI::App& app, Choice& choice) {
  auto* command = app.add_subcommand("ls", "List the images");
  command->callback([&choice] { choice.run = ls; });
}

}  // namespace ckpt::tool
