#include "engine/kinds/file_handle.h"

#include <fcntl.h>
#include <sys/sysmacros.h>

#include <charconv>
#include <cstring>

#include "engine/base/error.h"
#include "engine/base/record.h"

namespace ckpt {

namespace {

struct HandleBuffer {
  struct file_handle head;
  unsigned char bytes[MAX_HANDLE_SZ];
};

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

UniqueFd try_mount(int proc_dir, const std::string& mount_point, HandleBuffer& buffer) {
  // Relative to the process's root; open_by_handle_at before Linux 6.14 takes no O_PATH descriptor as its mount.
  const UniqueFd mount(openat(proc_dir, ("root" + mount_point).c_str(),
                              O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | O_DIRECTORY));
  if (!mount) return UniqueFd();
  return UniqueFd(open_by_handle_at(mount.get(), &buffer.head, O_PATH | O_CLOEXEC));
}

}  // namespace

std::string FileHandle::text() const {
  std::string out = fmt::format("{}:", type);
  for (const uint8_t b : bytes) out += fmt::format("{:02x}", b);
  return out;
}

FileHandle FileHandle::parse(std::string_view text, const std::string& where) {
  FileHandle handle;
  const size_t colon = text.find(':');
  const auto malformed = [&] { fail(EINVAL, "{}: the file handle '{}' is malformed", where, escape(text)); };
  if (colon == std::string_view::npos) malformed();
  const auto [end, err] = std::from_chars(text.data(), text.data() + colon, handle.type);
  if (err != std::errc{} || end != text.data() + colon) malformed();
  const std::string_view hex = text.substr(colon + 1);
  if (hex.size() % 2 != 0 || hex.size() > 2 * MAX_HANDLE_SZ) malformed();
  for (size_t i = 0; i < hex.size(); i += 2) {
    const int high = hex_digit(hex[i]), low = hex_digit(hex[i + 1]);
    if (high < 0 || low < 0) malformed();
    handle.bytes.push_back(static_cast<uint8_t>(high * 16 + low));
  }
  return handle;
}

std::optional<FileHandle> file_handle_of(int dirfd, const std::string& path) {
  HandleBuffer buffer = {};
  buffer.head.handle_bytes = MAX_HANDLE_SZ;
  int mount_id = 0;
  if (name_to_handle_at(dirfd, path.c_str(), &buffer.head, &mount_id, AT_SYMLINK_FOLLOW) != 0) return std::nullopt;
  FileHandle handle;
  handle.type = buffer.head.handle_type;
  const unsigned char* begin = buffer.head.f_handle;
  handle.bytes.assign(begin, begin + buffer.head.handle_bytes);
  return handle;
}

UniqueFd open_by_handle_of(int proc_dir, const FileHandle& handle, dev_t dev) {
  HandleBuffer buffer = {};
  buffer.head.handle_bytes = static_cast<unsigned>(handle.bytes.size());
  buffer.head.handle_type = handle.type;
  std::memcpy(buffer.head.f_handle, handle.bytes.data(), handle.bytes.size());
  const std::string wanted = fmt::format("{}:{}", major(dev), minor(dev));
  const std::string text = read_file(proc_dir, "mountinfo");
  std::string_view rest = text;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const auto words = split_words(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
    // ID PARENT MAJOR:MINOR ROOT MOUNTPOINT ...
    if (words.size() < 5 || words[2] != wanted) continue;
    const auto mount_point = unescape(words[4]);
    if (!mount_point) continue;
    if (UniqueFd fd = try_mount(proc_dir, *mount_point, buffer)) return fd;
  }
  return UniqueFd();
}

UniqueFd open_by_handle(const FileHandle& handle, dev_t dev) {
  const UniqueFd self = open_at(AT_FDCWD, "/proc/self", O_RDONLY | O_DIRECTORY);
  return open_by_handle_of(self.get(), handle, dev);
}

}  // namespace ckpt
