#include "tools/ckpt/rows.h"

#include <dirent.h>
#include <fcntl.h>

#include <algorithm>
#include <ctime>

#include "engine/base/error.h"
#include "engine/base/fd.h"

namespace ckpt::tool {

namespace {

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

std::vector<Row> rows_of_mount(const std::string& mount, const std::function<bool(const std::string&)>& wanted) {
  std::vector<Row> rows;
  for (const std::string& name : names_in(mount + "/images")) {
    if (!wanted(name)) continue;
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

std::vector<Row> rows_of_store(const Store& store, const std::function<bool(const std::string&)>& wanted) {
  std::vector<Row> rows;
  for (const ImageInfo& info : store.images()) {
    if (wanted(info.name)) rows.push_back({info.name, info.header, info.files, info.logical_bytes});
  }
  return rows;
}

}  // namespace

std::vector<Row> read_rows(Session& session, const std::function<bool(const std::string&)>& wanted) {
  return session.on_store() ? rows_of_store(*session.store(), wanted) : rows_of_mount(session.mount(), wanted);
}

std::string time_text(uint64_t time_ns, const char* format) {
  const auto seconds = static_cast<time_t>(time_ns / 1'000'000'000);
  struct tm tm {};
  ::localtime_r(&seconds, &tm);
  char text[64];
  const size_t size = std::strftime(text, sizeof text, format, &tm);
  return {text, size};
}

}  // namespace ckpt::tool
