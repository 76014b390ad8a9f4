#include "engine/kinds/cgroup.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "engine/base/error.h"
#include "engine/process/as_caller.h"

namespace ckpt {

namespace {

/// One line of /proc/PID/cgroup. Without controllers it is of the unified hierarchy.
struct Membership {
  std::string controllers, path;
};

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const size_t end = std::min(text.find(separator), text.size());
    parts.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return parts;
}

std::vector<Membership> parse_memberships(const std::string& text, const std::string& where) {
  std::vector<Membership> all;
  for (const std::string& line : split(text, '\n')) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos || line.substr(second + 1, 1) != "/") {
      fail(EINVAL, "{}: '{}' is no line of /proc/PID/cgroup", where, escape(line));
    }
    all.push_back({line.substr(first + 1, second - first - 1), line.substr(second + 1)});
  }
  return all;
}

std::vector<Membership> memberships_of(pid_t pid) {
  const std::string path = fmt::format("/proc/{}/cgroup", pid);
  return parse_memberships(read_file(path), path);
}

std::string path_in(const std::vector<Membership>& all, const std::string& controllers) {
  const auto it = std::ranges::find(all, controllers, &Membership::controllers);
  return it == all.end() ? "" : it->path;
}

/// Directory of a group as it is mounted here; empty where its hierarchy is not. /proc/PID/mountinfo, proc(5).
std::string find_directory(const Membership& group) {
  const std::vector<std::string> controllers = split(group.controllers, ',');
  for (const std::string& line : split(read_file("/proc/self/mountinfo"), '\n')) {
    const auto words = split_words(line);
    const auto dash = std::ranges::find(words, "-");
    if (words.size() < 6 || words.end() - dash < 4) continue;
    const std::vector<std::string> options = split(*(dash + 3), ',');
    const auto has = [&](const std::string& name) { return std::ranges::find(options, name) != options.end(); };
    if (*(dash + 1) != (controllers.empty() ? "cgroup2" : "cgroup") || !std::ranges::all_of(controllers, has)) continue;
    const std::string root = words[3] == "/" ? "" : unescape(words[3]).value_or("");
    if (!group.path.starts_with(root + "/")) continue;
    return unescape(words[4]).value_or("") + group.path.substr(root.size());
  }
  return "";
}

std::string content_of(const std::string& path) {
  try {
    return read_file(path);
  } catch (const Error&) {
    return "";
  }
}

/// Who is put into a frozen group does nothing more, not for us either.
bool is_frozen(const std::string& directory) {
  const std::string state = content_of(directory + "/freezer.state");
  return content_of(directory + "/cgroup.events").find("frozen 1") != std::string::npos ||
         content_of(directory + "/cgroup.freeze").starts_with("1") || (!state.empty() && !state.starts_with("THAWED"));
}

/// Throws Error with the reason alone.
void enter(pid_t pid, const Membership& group) {
  const std::string directory = find_directory(group);
  if (directory.empty()) fail(ENOENT, "its hierarchy is not mounted here");
  if ((directory + "/").find("/../") != std::string::npos) fail(EINVAL, "it is no path of a control group");
  if (is_frozen(directory)) fail(EBUSY, "it is frozen");
  const UniqueFd procs(::open((directory + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW));
  const std::string text = std::to_string(pid);
  if (!procs || ::write(procs.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    fail(errno, "{}", errno_text(errno));
  }
}

}  // namespace

std::string restore_cgroups(const RestoreContext& ctx) {
  const std::string path = ctx.prefix + "cgroup";
  if (!ctx.image->has(path)) return "";
  std::string note;
  for (const Membership& group : parse_memberships(ctx.image->read(path, 1 << 20), ctx.image->describe() + "/" + path)) {
    if (path_in(memberships_of(ctx.pid), group.controllers) == group.path) continue;
    try {
      const AsCaller rights(ctx.caller);
      enter(ctx.pid, group);
    } catch (const Error& e) {
      if (note.empty()) {
        note = fmt::format("it is not in the control group {} any more: {}", escape(group.path), e.sentence());
      }
      try {
        const Membership callers = {group.controllers, path_in(memberships_of(ctx.caller.pid), group.controllers)};
        if (!callers.path.empty()) enter(ctx.pid, callers);
      } catch (const Error&) {
        // The caller has ended, or is in a namespace of its own: then it is in ours.
      }
    }
  }
  return note;
}

}  // namespace ckpt
