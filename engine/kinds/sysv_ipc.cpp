#include "engine/kinds/sysv_ipc.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <sstream>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/kinds/named_file.h"
#include "engine/process/procfs.h"

namespace ckpt {

void IpcObject::set(ipc_perm& perm) const {
  perm.mode = static_cast<decltype(perm.mode)>(mode);
  perm.uid = uid;
  perm.gid = gid;
}

void add_ipc_object(const IpcObject& object, Record& out) {
  out.add("id", object.id);
  out.add_hex("key", static_cast<uint32_t>(object.key));
  out.add("mode", fmt::format("{:#05o}", object.mode));
  out.add("uid", object.uid);
  out.add("gid", object.gid);
}

IpcObject parse_ipc_object(const Record& record) {
  IpcObject object;
  object.id = static_cast<int>(record.get_u64("id", INT32_MAX));
  object.key = static_cast<key_t>(record.get_u64("key", UINT32_MAX));
  object.mode = static_cast<unsigned>(parse_mode(record)) & 0777;
  object.uid = static_cast<uid_t>(record.get_u64("uid", UINT32_MAX));
  object.gid = static_cast<gid_t>(record.get_u64("gid", UINT32_MAX));
  return object;
}

void check_owns(const Caller& caller, const IpcObject& object, const std::string& where) {
  if (caller.privileged() || caller.uid == object.uid) return;
  fail(EPERM, "{}: only root or user {}, whose it is, may resume a process with it", where, object.uid);
}

void choose_next_id(const char* kind, int id, const std::string& where) {
  const std::string path = fmt::format("/proc/sys/kernel/{}_next_id", kind), text = std::to_string(id);
  const UniqueFd next = open_at(AT_FDCWD, path, O_WRONLY);
  if (::write(next.get(), text.data(), text.size()) < 0) fail_errno("{}: {}", where, path);
}

std::vector<int> list_ipc_objects(const char* kind) {
  // "       key      semid perms ..." and a line for each.
  std::istringstream lines(read_file(fmt::format("/proc/sysvipc/{}", kind)));
  std::vector<int> ids;
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    const auto words = split_words(line);
    const auto id = words.size() < 2 ? std::nullopt : parse_u64(words[1]);
    if (id) ids.push_back(static_cast<int>(*id));
  }
  return ids;
}

bool belongs_to(const IpcMembers& members, std::span<const pid_t> last) {
  const auto is_member = [&](pid_t pid) { return members.contains(pid); };
  const auto lives_outside = [&](pid_t pid) { return pid > 0 && !is_member(pid) && pid_in_use(pid); };
  return std::ranges::any_of(last, is_member) && std::ranges::none_of(last, lives_outside);
}

std::vector<std::string> recorded_ipc_objects(const ImageSource& image, std::string_view kind) {
  const std::string begin = fmt::format("objects/{}-", kind);
  std::vector<std::string> paths;
  for (const ImageEntry& entry : image.below("objects")) {
    if (entry.path.starts_with(begin)) paths.push_back(entry.path);
  }
  return paths;
}

}  // namespace ckpt
