// A store on a disk that is full, for a while or now and then: what cannot be stored fails with ENOSPC, nothing hangs, and
// the store goes on as soon as there is room.
//
// Each test mounts a small filesystem in a child with a mount namespace of its own, so that nothing is left of it. The
// process that forks never opens a store: see crash_test.cpp.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "engine/base/fd.h"
#include "tests/unit/store_fixture.h"

namespace ckpt {
namespace {

using Directory = std::filesystem::path;

int save_error(Store& store, const std::string& name, size_t blocks, uint64_t seed) {
  return error_of([&] {
    const auto b = store.begin_image("test");
    add_file(*b, "data", noise(blocks * kBlockSize, seed));
    b->write_manifest(header(1));
    b->commit(name);
  });
}

// Each returns the line that went wrong, 0 for none.

int fill_disk(const Directory& dir) {
  const auto store = open_rocksdb_store(dir / "store");
  if (save_error(*store, "first", 5, 1) != 0) return __LINE__;
  if (save_error(*store, "large", 100, 2) != ENOSPC) return __LINE__;
  if (store->images().size() != 1) return __LINE__;
  if (save_error(*store, "large", 20, 3) != 0) return __LINE__;   // the rest of the failed one is gone
  // Small ones, through the log.
  int err = 0;
  for (uint64_t i = 0; err == 0 && i < 100; ++i) err = save_error(*store, fmt::format("s{}", i), 4, 10 + i);
  if (err != ENOSPC) return __LINE__;
  const size_t images = store->images().size();
  if (images < 3) return __LINE__;
  // Room again, as an administrator would make it.
  if (mount("tmpfs", dir.c_str(), "tmpfs", MS_REMOUNT, "size=256m") != 0) return __LINE__;
  if (save_error(*store, "small", 1, 5) != 0) return __LINE__;
  if (save_error(*store, "after", 20, 4) != 0) return __LINE__;
  if (store->images().size() != images + 2) return __LINE__;
  if (store->open_image("first")->read("data") != text(noise(5 * kBlockSize, 1))) return __LINE__;
  if (!store->check(Store::CheckLevel::full).damage.empty()) return __LINE__;
  return 0;
}

// Takes the room of the disk away and gives it back, all the time.
void take_room(const Directory& dir, const std::atomic<bool>& ends) {
  const UniqueFd file(open((dir / "other").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  std::mt19937_64 random(1);
  while (!ends) {
    for (off_t size = 256 << 20; size > 4096; size /= 2) {
      struct stat st {};
      if (fstat(file.get(), &st) == 0) (void)!posix_fallocate(file.get(), st.st_size, size);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 30000));
    (void)!ftruncate(file.get(), 0);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 30000));
  }
  (void)!ftruncate(file.get(), 0);
}

// EIO: RocksDB remembers that a write into the file has failed, but not why.
bool is_full(int err) { return err == ENOSPC || err == EIO; }

int fill_now_and_then(const Directory& dir) {
  constexpr uint64_t kRounds = 25;
  const auto store = open_rocksdb_store(dir / "store");
  std::atomic<bool> ends = false;
  std::atomic<int> wrong = 0;
  std::thread other([&] { take_room(dir, ends); });
  std::vector<std::thread> writers;
  for (uint64_t who = 0; who < 3; ++who) {
    writers.emplace_back([&, who] {
      std::mt19937_64 random(who);
      for (uint64_t round = 0; round < kRounds && wrong == 0; ++round) {
        const std::string name = fmt::format("{}-{}", who, round % 4);
        // In the log, or in a table file of their own.
        const int err = save_error(*store, name, 1 + random() % 9, who * 1000 + round);
        if (err != 0 && !is_full(err)) wrong = __LINE__;
        const int deleted = error_of([&] { store->delete_image(name); });
        if (deleted != 0 && !is_full(deleted) && deleted != ENOENT) wrong = __LINE__;
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  ends = true;
  other.join();
  if (wrong != 0) return wrong;
  // What could not be deleted is still there.
  if (mount("tmpfs", dir.c_str(), "tmpfs", MS_REMOUNT, "size=256m") != 0) return __LINE__;
  if (save_error(*store, "after", 20, 4) != 0) return __LINE__;
  if (!store->check(Store::CheckLevel::full).damage.empty()) return __LINE__;
  return 0;
}

class FullDiskDeathTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "mounting a small filesystem needs root";
    std::string name = std::filesystem::temp_directory_path() / "ckpt-full-XXXXXX";
    dir_ = mkdtemp(name.data());
  }
  ~FullDiskDeathTest() override {
    if (!dir_.empty()) std::filesystem::remove_all(dir_);
  }

  /// Runs the body on a disk of `size`.
  void run(int (*body)(const Directory&), const char* size) {
    int result[2];
    ASSERT_EQ(pipe(result), 0);
    const UniqueFd answer(result[0]);
    const pid_t child = fork();
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      int line = __LINE__;
      if (unshare(CLONE_NEWNS) == 0 && mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
          mount("tmpfs", dir_.c_str(), "tmpfs", 0, size) == 0) {
        line = body(dir_);
      }
      write_all(result[1], {reinterpret_cast<const char*>(&line), sizeof line}, "pipe");
      _exit(0);
    }
    close(result[1]);
    int line = -1;
    EXPECT_EQ(read(answer.get(), &line, sizeof line), static_cast<ssize_t>(sizeof line)) << "it hung, or crashed";
    EXPECT_EQ(line, 0) << "the line that went wrong";
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }

  Directory dir_;
};

TEST_F(FullDiskDeathTest, IsReportedAndOvercome) { run(fill_disk, "size=64m"); }
TEST_F(FullDiskDeathTest, NowAndThen) { run(fill_now_and_then, "size=96m"); }

}  // namespace
}  // namespace ckpt
