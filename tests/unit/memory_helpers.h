// Children with known memory, and an image kept in plain maps, for the tests of engine/memory.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <mutex>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/memory/snapshot.h"

namespace ckpt::test {

inline constexpr uint64_t kPage = kPageSize;

/// A forked child that runs `body`, after which it waits to be killed. Killed and reaped at the end.
class Child {
 public:
  /// `body` runs in the child and calls ready(), or returns, when the parent may go on.
  explicit Child(const std::function<void(const std::function<void()>& ready)>& body) {
    int pipe_fds[2];
    if (::pipe2(pipe_fds, O_CLOEXEC) != 0) fail_errno("pipe");
    pid_ = ::fork();
    if (pid_ == 0) {
      bool told = false;
      const auto ready = [&] {
        if (!told && ::write(pipe_fds[1], "r", 1) != 1) ::_exit(3);
        told = true;
      };
      body(ready);
      ready();
      for (;;) ::pause();
    }
    ::close(pipe_fds[1]);
    char byte;
    const bool ok = ::read(pipe_fds[0], &byte, 1) == 1;
    ::close(pipe_fds[0]);
    if (!ok) fail(EIO, "the child died before it was ready");
  }
  Child(const Child&) = delete;
  ~Child() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }
  std::vector<Vma> vmas() const {
    const std::string path = fmt::format("/proc/{}/smaps", pid_);
    return parse_maps(read_file(path), path);
  }
  /// The mapping that holds an address.
  Vma vma_at(const void* address) const {
    for (const Vma& vma : vmas()) {
      const auto a = reinterpret_cast<uint64_t>(address);
      if (vma.start <= a && a < vma.end) return vma;
    }
    fail(ENOENT, "no mapping at {}", address);
  }

 private:
  pid_t pid_ = -1;
};

/// Anonymous private memory without huge pages, mapped before the fork so that parent and child agree on the address.
inline char* map_pages(uint64_t pages, int prot = PROT_READ | PROT_WRITE, int flags = 0) {
  void* p = ::mmap(nullptr, pages * kPage, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
  if (p == MAP_FAILED) fail_errno("mmap");
  return static_cast<char*>(p);
}

inline Range range_at(const void* start, uint64_t pages) {
  const auto a = reinterpret_cast<uint64_t>(start);
  return {a, a + pages * kPage};
}

/// An image in memory: source and sink.
class MapImage : public ImageSink, public ImageSource {
 public:
  std::string describe() const override { return "test image"; }
  const std::vector<ImageEntry>& entries() const override {
    entries_.clear();
    for (const auto& [path, content] : files_) entries_.push_back({path, EntryType::file, content.size()});
    return entries_;
  }
  std::string read_link(std::string_view) const override { return {}; }
  void visit(std::string_view path, uint64_t offset, uint64_t length, const Visitor& v) const override {
    const std::string& content = files_.find(path)->second;
    while (length > 0) {
      const uint64_t piece = std::min<uint64_t>(length, 100 << 10);
      v(offset, std::as_bytes(std::span(content.data() + offset, piece)));
      offset += piece;
      length -= piece;
    }
  }
  Digest digest(std::string_view) const override { return {}; }

  void put(std::string_view path, std::string_view content) override { files_[std::string(path)] = content; }
  void put_link(std::string_view, std::string_view) override {}
  std::shared_ptr<BlockSink> create(std::string_view path, uint64_t size) override {
    const std::lock_guard lock(mutex_);
    std::string& content = files_[std::string(path)];
    content.resize(size);
    return std::make_shared<Sink>(*this, content);
  }

  std::map<std::string, std::string, std::less<>>& files() { return files_; }
  uint64_t total_size() const {
    uint64_t total = 0;
    for (const auto& [path, content] : files_) total += content.size();
    return total;
  }
  /// Bytes stored of a range.
  uint64_t stored_within(Range within) const {
    uint64_t total = 0;
    for (const auto& [path, content] : files_) {
      const Range range = parse_range_name(path.substr(path.rfind('/') + 1), path);
      const uint64_t start = std::max(range.start, within.start), end = std::min(range.end, within.end);
      if (start < end) total += end - start;
    }
    return total;
  }
  /// The byte at an address, from whichever segment holds it; nothing where none does.
  std::optional<std::string_view> bytes_at(const void* address, uint64_t length) const {
    const auto a = reinterpret_cast<uint64_t>(address);
    for (const auto& [path, content] : files_) {
      const Range range = parse_range_name(path.substr(path.rfind('/') + 1), path);
      if (range.start <= a && a + length <= range.end) {
        return std::string_view(content).substr(a - range.start, length);
      }
    }
    return std::nullopt;
  }

 private:
  struct Sink : BlockSink {
    Sink(MapImage& i, std::string& c) : image(i), content(c) {}
    using BlockSink::put_block;
    void put_block(uint64_t index, std::span<const std::byte> data) override {
      if (image.on_put) image.on_put();
      std::memcpy(content.data() + index * kBlockSize, data.data(), data.size());
    }
    MapImage& image;
    std::string& content;
  };
  std::map<std::string, std::string, std::less<>> files_;
  mutable std::vector<ImageEntry> entries_;
  std::mutex mutex_;

 public:
  std::function<void()> on_put;   ///< called before each block
};

}  // namespace ckpt::test
