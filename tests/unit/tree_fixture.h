// Trees of processes for tests of checkpoint() and resume(): each counts its beats in a file that all map, also when resumed.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/error.h"
#include "engine/engine.h"
#include "engine/process/procfs.h"
#include "tests/unit/memory_store.h"
#include "tests/unit/target.h"

namespace ckpt::test {

constexpr size_t kProcesses = 8;

struct TreeReport {
  std::atomic<int> ready{0};
  std::atomic<uint64_t> births{0};
  std::atomic<pid_t> pids[kProcesses]{};
  std::atomic<uint64_t> beats[kProcesses]{};
};

inline void leave_the_test() {
  ::setsid();
  ::syscall(SYS_close_range, 0, ~0u, 0);
  ::open("/dev/null", O_RDWR);
  ::dup(0);
  ::dup(0);
}

[[noreturn]] inline void beat(TreeReport& report, size_t index) {
  report.pids[index] = ::getpid();
  ++report.ready;
  for (;;) {
    ++report.beats[index];
    ::usleep(200);
  }
}

/// A binary tree of kProcesses - 1; process i has the children 2i and 2i + 1.
[[noreturn]] inline void beat_in_tree(TreeReport& report, size_t index) {
  for (const size_t child : {2 * index, 2 * index + 1}) {
    if (child < kProcesses && ::fork() == 0) beat_in_tree(report, child);
  }
  beat(report, index);
}

/// In a file, so that those who are resumed have it too.
class ReportFile {
 public:
  ReportFile() {
    const UniqueFd fd(::mkstemp(path_.data()));
    if (!fd || ::ftruncate(fd.get(), sizeof(TreeReport)) != 0) fail_errno("{}", path_);
    memory_ = ::mmap(nullptr, sizeof(TreeReport), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    new (memory_) TreeReport();
  }
  ~ReportFile() {
    ::munmap(memory_, sizeof(TreeReport));
    ::unlink(path_.c_str());
  }
  ReportFile(const ReportFile&) = delete;
  ReportFile& operator=(const ReportFile&) = delete;
  TreeReport* operator->() const { return static_cast<TreeReport*>(memory_); }
  TreeReport& operator*() const { return *static_cast<TreeReport*>(memory_); }

 private:
  std::string path_ = "/tmp/tree-test-XXXXXX";
  void* memory_ = nullptr;
};

inline bool exists(pid_t pid) { return ::kill(pid, 0) == 0 || errno != ESRCH; }

class TreeTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "a chosen pid needs privileges";
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  }
  void TearDown() override {
    for (const auto& pid : report_->pids) {
      if (pid > 0) ::kill(pid, SIGKILL);
    }
    reap_all();
  }

  /// We are the subreaper: whoever is an orphan comes to us.
  static void reap_all() {
    while (::waitpid(-1, nullptr, __WALL) > 0) {
    }
  }

  void start() {
    root_ = ::fork();
    if (root_ == 0) {
      leave_the_test();
      beat_in_tree(*report_, 1);
    }
    ASSERT_TRUE(eventually([&] { return report_->ready == static_cast<int>(kProcesses) - 1; }));
  }
  std::vector<pid_t> pids() const {
    std::vector<pid_t> pids;
    for (const auto& pid : report_->pids) {
      if (pid > 0) pids.push_back(pid);
    }
    return pids;
  }
  /// Every one of them.
  bool all_go_on() const {
    std::array<uint64_t, kProcesses> before{};
    for (size_t i = 1; i < kProcesses; ++i) before[i] = report_->beats[i];
    return eventually([&] { return have_beaten(before); });
  }
  bool have_beaten(const std::array<uint64_t, kProcesses>& since) const {
    for (size_t i = 1; i < kProcesses; ++i) {
      if (report_->beats[i] < since[i] + 10) return false;
    }
    return true;
  }
  bool nobody_is_traced() const {
    for (const pid_t pid : pids()) {
      if (read_status(pid).tracer != 0) return false;
    }
    return true;
  }
  bool none_exists() const {
    for (const pid_t pid : pids()) {
      if (exists(pid)) return false;
    }
    return true;
  }

  CheckpointResult save(AfterCapture after = AfterCapture::go_on) {
    CheckpointOptions options;
    options.after = after;
    return checkpoint(store_, root_, Caller::self(), options);
  }
  std::shared_ptr<const StoredImage> freeze() {
    const std::string name = save(AfterCapture::exit).name;
    EXPECT_EQ(::waitpid(root_, nullptr, 0), root_);
    EXPECT_TRUE(none_exists()) << "the end of the tree has left somebody";
    return store_.open_image(name);
  }

  ReportFile report_;
  MemoryStore store_;
  pid_t root_ = 0;
};

}  // namespace ckpt::test
