#include "engine/kinds/fd_flags.h"

#include <fcntl.h>

#include <utility>

#include "engine/base/error.h"

namespace ckpt {

namespace {

// O_SYNC contains O_DSYNC and O_TMPFILE contains O_DIRECTORY: the larger ones come first.
constexpr std::pair<uint32_t, const char*> kNames[] = {
    {O_APPEND, "O_APPEND"},       {O_NONBLOCK, "O_NONBLOCK"}, {O_SYNC, "O_SYNC"},
    {O_DSYNC, "O_DSYNC"},         {O_ASYNC, "O_ASYNC"},       {O_DIRECT, "O_DIRECT"},
    {kLargeFile, "O_LARGEFILE"},  {O_TMPFILE, "O_TMPFILE"},   {O_DIRECTORY, "O_DIRECTORY"},
    {O_NOFOLLOW, "O_NOFOLLOW"},   {O_NOATIME, "O_NOATIME"},   {O_CLOEXEC, "O_CLOEXEC"},
    {O_PATH, "O_PATH"},
};

constexpr uint32_t kSettable = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME;
constexpr uint32_t kOpenable = O_ACCMODE | kSettable | O_DSYNC | O_SYNC | O_DIRECTORY | O_PATH;

}  // namespace

std::string flag_names(uint32_t flags) {
  static constexpr const char* kModes[] = {"O_RDONLY", "O_WRONLY", "O_RDWR", "O_WRONLY|O_RDWR"};
  std::string text = kModes[flags & O_ACCMODE];
  flags &= ~static_cast<uint32_t>(O_ACCMODE);
  for (const auto& [bits, name] : kNames) {
    if ((flags & bits) != bits) continue;
    text.append("|").append(name);
    flags &= ~bits;
  }
  if (flags != 0) text += fmt::format("|{:#x}", flags);
  return text;
}

int open_flags(const Record& record) {
  const uint64_t flags = record.get_u64("flags", UINT32_MAX);
  return static_cast<int>(static_cast<uint32_t>(flags) & kOpenable) | O_CLOEXEC | O_NOCTTY;
}

void set_status_flags(int fd, const Record& record) {
  const auto wanted = static_cast<int>(record.get_u64("flags", UINT32_MAX) & kSettable);
  const int now = fcntl(fd, F_GETFL);
  if (now < 0) fail_errno("{}: F_GETFL", record.where());
  if ((now & static_cast<int>(kSettable)) == wanted) return;
  if (fcntl(fd, F_SETFL, (now & ~static_cast<int>(kSettable)) | wanted) != 0) {
    fail_errno("{}: setting the flags {:#x}", record.where(), wanted);
  }
}

}  // namespace ckpt
