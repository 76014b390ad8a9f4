// Captures descriptors of the test process itself, closes them, and makes them again from the image.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>

#include <cstring>
#include <set>

#include "engine/base/fd.h"
#include "engine/kinds/kind.h"
#include "tests/unit/memory_image.h"

namespace ckpt {

/// "Another process" that is this one.
class SelfRemote : public Remote {
 public:
  pid_t pid() const override { return getpid(); }
  pid_t tid() const override { return gettid(); }
  long syscall(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) override {
    const long result = ::syscall(nr, a, b, c, d, e, f);
    return result < 0 ? -errno : result;
  }
  void read(RemotePtr from, std::span<std::byte> to) override {
    std::memcpy(to.data(), reinterpret_cast<const void*>(from.addr), to.size());
  }
  void write(RemotePtr to, std::span<const std::byte> from) override {
    std::memcpy(reinterpret_cast<void*>(to.addr), from.data(), from.size());
  }
  RemotePtr scratch() const override { return {reinterpret_cast<uint64_t>(buffer_)}; }
  size_t scratch_size() const override { return sizeof buffer_; }

 private:
  alignas(64) mutable char buffer_[8192];
};

class DescriptorTest : public ::testing::Test {
 protected:
  DescriptorTest() {
    std::string path = "/tmp/ckpt-kinds-XXXXXX";
    if (mkdtemp(path.data()) == nullptr) fail_errno("{}", path);
    dir_ = path;
    proc_dir_ = open_at(AT_FDCWD, "/proc/self", O_RDONLY | O_DIRECTORY);
    caller_ = Caller::self();
    pid_fd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, getpid(), 0)));
  }
  ~DescriptorTest() override { std::system(("rm -rf " + dir_).c_str()); }

  std::vector<OpenFd> table(const std::set<int>& wanted) const {
    std::vector<OpenFd> out;
    for (OpenFd& fd : read_fd_table(getpid(), proc_dir_.get())) {
      if (wanted.contains(fd.fd)) out.push_back(std::move(fd));
    }
    return out;
  }

  CaptureContext capture_context() {
    CaptureContext ctx;
    ctx.pid = getpid();
    ctx.proc_dir = proc_dir_.get();
    ctx.pid_fd = pid_fd_.get();
    ctx.image = &image_;
    ctx.leader = &remote_;
    ctx.objects = &captured_objects_;
    ctx.later = &later_;
    ctx.no_sockets = no_sockets_;
    ctx.no_pgrp_ttys = no_pgrp_ttys_;
    return ctx;
  }

  void capture(const std::set<int>& wanted) {
    const auto fds = table(wanted);
    ASSERT_EQ(fds.size(), wanted.size());
    Refusals refusals;
    refuse_descriptors(getpid(), fds, refusals, no_sockets_);
    refusals.raise();
    capture_descriptors(capture_context(), fds);
    for (const auto& work : later_) work();
    later_.clear();
  }

  /// Why the process would not be checkpointed.
  std::string refusal(const std::set<int>& wanted) {
    Refusals refusals;
    refuse_descriptors(getpid(), table(wanted), refusals);
    return refusals.text();
  }

  RestoreContext restore_context() {
    RestoreContext ctx;
    ctx.image = &image_;
    ctx.pid = getpid();
    ctx.caller = caller_;
    ctx.objects = &restored_objects_;
    ctx.traces = &traces_;
    ctx.last = &last_;
    ctx.give = [](int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 3000); };
    return ctx;
  }

  /// Makes every descriptor of the image and puts it at its old number.
  void restore(const std::vector<std::pair<int, int>>& inherit = {}) {
    const RestoreContext ctx = restore_context();
    RestoredFds fds = restore_descriptors(ctx, inherit);
    complete_descriptors(ctx, fds, remote_);
    for (UniqueFd& file : fds.files) {
      UniqueFd high(fcntl(file.get(), F_DUPFD_CLOEXEC, 2000));
      file = std::move(high);
    }
    restored_objects_.clear();  // their numbers may be among those
    for (const RestoredFd& fd : fds.fds) {
      ASSERT_EQ(dup3(fds.files[static_cast<size_t>(fd.file)].get(), fd.fd, fd.cloexec ? O_CLOEXEC : 0), fd.fd);
    }
    fds.files.clear();
    finish_descriptors(ctx, fds, remote_);
    for (const auto& work : last_) work();
    last_.clear();
  }

  void round_trip(const std::set<int>& wanted) {
    capture(wanted);
    for (const int fd : wanted) close(fd);
    restore();
  }

  /// errno and sentence of a restore that must fail.
  Error restore_error() {
    last_.clear();
    try {
      restored_objects_.clear();
      RestoredFds fds = restore_descriptors(restore_context(), {});
      complete_descriptors(restore_context(), fds, remote_);
    } catch (const Error& e) {
      restored_objects_.clear();
      return e;
    }
    ADD_FAILURE() << "the restore did not fail";
    return Error(ENODATA, "none");
  }

  static int high(int fd, int number) {
    const int moved = fcntl(fd, F_DUPFD, number);
    close(fd);
    return moved;
  }
  std::string path(const std::string& name) const { return dir_ + "/" + name; }
  void write_file(const std::string& name, std::string_view content) const {
    const UniqueFd fd(open(path(name).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644));
    write_all(fd.get(), content, name);
  }
  std::string record(int fd) { return image_.content(fmt::format("fds/{}", fd)); }
  static std::string fdinfo(int fd) { return read_file(fmt::format("/proc/self/fdinfo/{}", fd)); }

  std::string dir_;
  MemoryImage image_;
  SelfRemote remote_;
  Caller caller_;
  UniqueFd proc_dir_, pid_fd_;
  std::map<std::string, std::string> captured_objects_;
  std::map<std::string, UniqueFd> restored_objects_;
  std::vector<std::function<void()>> later_, last_;
  Traces traces_;
  bool no_sockets_ = false, no_pgrp_ttys_ = false;
};

}  // namespace ckpt
