// The images of the mount or store, for tables: from their manifests.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/image/manifest.h"
#include "tools/ckpt/session.h"

namespace ckpt::tool {

struct Row {
  std::string name;
  ManifestHeader header;
  uint64_t files = 0;
  uint64_t bytes = 0;
};

/// Sorted by name. Images that the caller may not read are others' and are left out, as are those deleted meanwhile; and
/// of the rest those whose name is not `wanted`, unread.
std::vector<Row> read_rows(
    Session& session, const std::function<bool(const std::string&)>& wanted = [](const std::string&) { return true; });

inline constexpr const char* kTimeForPeople = "%Y-%m-%d %H:%M:%S";
inline constexpr const char* kTimeForPrograms = "%Y-%m-%dT%H:%M:%S%z";
/// In local time, as strftime(3).
std::string time_text(uint64_t time_ns, const char* format);

}  // namespace ckpt::tool
