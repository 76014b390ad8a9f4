#include "engine/kinds/pipe.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"

namespace ckpt {

namespace {

// F_SETPIPE_SZ above fs.pipe-max-size is for the privileged, and never above 2^31.
constexpr uint64_t kMaxCapacity = 1u << 31;
constexpr size_t kMaxContent = 1u << 30;

bool reads(const OpenFd& fd) { return (fd.flags & O_ACCMODE) != O_WRONLY; }
bool writes(const OpenFd& fd) { return (fd.flags & O_ACCMODE) != O_RDONLY; }

struct PipePair {
  UniqueFd read, write;
};

PipePair make_pipe(int flags, const std::string& where) {
  int ends[2];
  if (pipe2(ends, flags | O_CLOEXEC) != 0) fail_errno("{}: pipe2", where);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

/// Another description of the same pipe, or FIFO, with an access mode of its own: opening it never blocks, because
/// this process holds what it opens.
UniqueFd reopen(int fd, int flags, const std::string& where) {
  UniqueFd again(open(fmt::format("/proc/self/fd/{}", fd).c_str(), flags | O_NONBLOCK | O_CLOEXEC));
  if (!again) fail_errno("{}: opening a pipe again", where);
  return again;
}

/// Whether nobody holds the end opposite to `fd`, which this process has taken over.
bool other_end_is_gone(int fd, bool read_end) {
  struct pollfd p = {fd, 0, 0};
  if (poll(&p, 1, 0) == 1 && (p.revents & (read_end ? POLLHUP : POLLERR)) != 0) return true;
  if (!read_end) return false;
  // A FIFO that no writer has opened since does not say POLLHUP (pipe_poll in fs/pipe.c), but tee(2) knows: nothing
  // to copy and no writer is 0, nothing and a writer is EAGAIN.
  const PipePair scratch = make_pipe(0, "tee");
  return tee(fd, scratch.write.get(), 4096, SPLICE_F_NONBLOCK) == 0;
}

struct Content {
  std::string data;
  std::vector<size_t> chunks;
};

/// A read end hands out one packet a read, and everything at once where there are no packets.
Content drain(int read_end, size_t capacity, const std::string& where) {
  Content content;
  std::string buffer(std::max<size_t>(capacity, 1 << 16), '\0');
  for (;;) {
    const ssize_t n = ::read(read_end, buffer.data(), buffer.size());
    if (n == 0 || (n < 0 && errno == EAGAIN)) return content;
    if (n < 0) fail_errno("{}: reading a copy of the pipe's content", where);
    content.data.append(buffer.data(), static_cast<size_t>(n));
    content.chunks.push_back(static_cast<size_t>(n));
  }
}

class PipeKind : public DescriptorKind {
 public:
  const char* name() const override { return "pipe"; }

  bool matches(const OpenFd& fd) const override {
    return S_ISFIFO(fd.st.st_mode) && fd.target.starts_with("pipe:[");
  }

  std::optional<std::string> refuse(const CaptureContext& ctx, const OpenFd& fd) const override {
    return refuse_outside_end(ctx, fd);
  }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    const std::string object = fmt::format("pipe-{}", fd.st.st_ino);
    out.add("object", object);
    if (ctx.first(object)) capture_pipe_content(ctx, ctx.take(fd.fd).get(), object);
  }

  UniqueFd restore(const RestoreContext& ctx, const Record& record) const override {
    const std::string object = object_name(record, "pipe-");
    if (!ctx.objects->contains(object)) make(ctx, record, object);
    const int mode = open_flags(record) & O_ACCMODE;
    UniqueFd fd;
    // The two ends of pipe2 go to the first who ask: opening through /proc would add O_LARGEFILE to their flags.
    if (mode == O_RDONLY) fd = std::move((*ctx.objects)[object + ".read"]);
    if (mode == O_WRONLY) fd = std::move((*ctx.objects)[object + ".write"]);
    if (!fd) fd = reopen(ctx.objects->at(object).get(), mode, record.where());
    set_status_flags(fd.get(), record);
    return fd;
  }

  bool has_owner() const override { return true; }

 private:
  /// Three descriptors go into ctx.objects: the two ends, and one for both that keeps the content until every
  /// descriptor is there.
  static void make(const RestoreContext& ctx, const Record& record, const std::string& object) {
    PipePair pair = make_pipe(O_NONBLOCK, record.where());
    restore_pipe_content(ctx, pair.write.get(), object);
    UniqueFd both = reopen(pair.read.get(), O_RDWR, record.where());
    ctx.objects->emplace(object, std::move(both));
    ctx.objects->emplace(object + ".read", std::move(pair.read));
    ctx.objects->emplace(object + ".write", std::move(pair.write));
  }
};

}  // namespace

const DescriptorKind& pipe_kind() {
  static const PipeKind kind;
  return kind;
}

std::optional<std::string> refuse_outside_end(const CaptureContext& ctx, const OpenFd& fd) {
  bool read_end = false, write_end = false;
  for (const OpenFd* other : ctx.holders(fd.st.st_dev, fd.st.st_ino)) {
    if ((other->flags & O_PATH) != 0) continue;
    read_end = read_end || reads(*other);
    write_end = write_end || writes(*other);
  }
  if ((read_end && write_end) || ctx.may_hold_more()) return std::nullopt;
  const UniqueFd mine = ctx.take(fd.fd);
  if (other_end_is_gone(mine.get(), read_end)) return std::nullopt;
  if (fd.target.starts_with('/')) {
    return fmt::format("a FIFO ({}) whose other end is outside the process tree cannot be checkpointed", fd.target);
  }
  return "a pipe whose other end is outside the process tree cannot be checkpointed";
}

void capture_pipe_content(const CaptureContext& ctx, int fd, const std::string& object) {
  const std::string where = fmt::format("{}: {}", ctx.pid, object);
  const int capacity = fcntl(fd, F_GETPIPE_SZ);
  if (capacity < 0) fail_errno("{}: F_GETPIPE_SZ", where);
  Record out;
  out.add("capacity", static_cast<uint64_t>(capacity));
  const PipePair copy = make_pipe(O_NONBLOCK, where);
  // As many slots as the original, or a copy of many small writes would not fit.
  if (fcntl(copy.write.get(), F_SETPIPE_SZ, capacity) < capacity) fail_errno("{}: F_SETPIPE_SZ {}", where, capacity);
  // tee(2) needs a read end; a writer's descriptor is opened again for reading, for as long as the process stands.
  const UniqueFd source = reopen(fd, O_RDONLY, where);
  if (tee(source.get(), copy.write.get(), INT32_MAX, SPLICE_F_NONBLOCK) < 0 && errno != EAGAIN) {
    fail_errno("{}: tee", where);
  }
  const Content content = drain(copy.read.get(), static_cast<size_t>(capacity), where);
  if (content.chunks.size() > 1) {
    for (const size_t chunk : content.chunks) out.add("chunk", uint64_t{chunk});
  }
  ctx.image->put("objects/" + object, out.text());
  if (!content.data.empty()) ctx.image->put("objects/" + object + ".data", content.data);
}

void restore_pipe_content(const RestoreContext& ctx, int write_end, const std::string& object) {
  const std::string path = "objects/" + object;
  const std::string where = ctx.image->describe() + "/" + path;
  const Record record = Record::parse(ctx.image->read(path), where);
  const uint64_t capacity = record.get_u64("capacity", kMaxCapacity);
  const int now = fcntl(write_end, F_GETPIPE_SZ);
  if (now < 0 || (static_cast<uint64_t>(now) != capacity &&
                  fcntl(write_end, F_SETPIPE_SZ, static_cast<unsigned>(capacity)) < 0)) {
    fail_errno("{}: setting the capacity {}", where, capacity);
  }
  if (!ctx.image->has(path + ".data")) return;
  const std::string data = ctx.image->read(path + ".data", kMaxContent);
  std::vector<std::string> chunks = record.all("chunk");
  if (chunks.empty()) {
    if (::write(write_end, data.data(), data.size()) != static_cast<ssize_t>(data.size())) {
      fail(EINVAL, "{}.data: {} bytes do not fit into the pipe", where, data.size());
    }
    return;
  }
  const int flags = fcntl(write_end, F_GETFL);
  fcntl(write_end, F_SETFL, flags | O_DIRECT);
  size_t used = 0;
  for (const std::string& text : chunks) {
    const auto chunk = parse_u64(text);
    if (!chunk || *chunk > data.size() - used) fail(EINVAL, "{}: chunk '{}' is out of range", where, escape(text));
    if (::write(write_end, data.data() + used, *chunk) != static_cast<ssize_t>(*chunk)) {
      fail(EINVAL, "{}.data: {} bytes do not fit into the pipe", where, data.size());
    }
    used += *chunk;
  }
  if (used != data.size()) fail(EINVAL, "{}: the chunks are not the whole content", where);
  fcntl(write_end, F_SETFL, flags);
}

std::string object_name(const Record& record, std::string_view prefix) {
  const std::string name = record.get("object");
  const std::string_view bad("/.\0", 3);
  if (!name.starts_with(prefix) || name.find_first_of(bad) != std::string::npos) {
    fail(EINVAL, "{}: '{}' is not the name of an object", record.where(), escape(name));
  }
  return name;
}

}  // namespace ckpt
