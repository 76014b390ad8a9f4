#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "engine/memory/capture_memory.h"
#include "engine/memory/pieces.h"
#include "engine/module.h"
#include "engine/process/stop.h"
#include "memory_helpers.h"

namespace ckpt {
namespace {

using test::Child;
using test::kPage;
using test::map_pages;
using test::MapImage;
using test::range_at;

TEST(CaptureMemory, CopiesPatternsIntoSegments) {
  constexpr uint64_t pages = 4000;
  char* base = map_pages(pages);
  char* sparse = map_pages((8ull << 30) / kPage);
  Child child([&](auto&) {
    for (uint64_t i = 0; i < pages; i++) std::memcpy(base + i * kPage, &i, sizeof i);
    ::mprotect(base + 100 * kPage, 10 * kPage, PROT_NONE);
    for (uint64_t i = 0; i < 20; i++) sparse[(i * 400 << 20)] = 's';
  });
  auto snapshot = make_copy_snapshot(child.pid());
  MapImage image;
  const auto vmas = child.vmas();
  const CapturedMemory result = capture_memory(*snapshot, vmas, image, "children/7/", nullptr);
  EXPECT_EQ(result.bytes, image.total_size());
  EXPECT_EQ(result.segments, image.files().size());
  EXPECT_LE(image.stored_within(range_at(sparse, (8ull << 30) / kPage)), 40ull << 20);
  for (uint64_t i = 0; i < pages; i++) {
    const auto bytes = image.bytes_at(base + i * kPage, sizeof i);
    ASSERT_TRUE(bytes) << i;
    EXPECT_EQ(std::memcmp(bytes->data(), &i, sizeof i), 0) << i;
  }
  for (uint64_t i = 0; i < 20; i++) EXPECT_EQ(image.bytes_at(sparse + (i * 400 << 20), 1), "s");
  ::munmap(base, pages * kPage);
  ::munmap(sparse, 8ull << 30);
}

TEST(CaptureMemory, EndsWhenCancelledOrTheSinkFails) {
  char* base = map_pages(16384);
  Child child([&](auto&) { std::memset(base, 1, 16384 * kPage); });
  auto snapshot = make_copy_snapshot(child.pid());
  {
    MapImage image;
    CancelFlag cancel = false;
    image.on_put = [&] { cancel = true; };
    try {
      capture_memory(*snapshot, child.vmas(), image, "", &cancel);
      ADD_FAILURE();
    } catch (const Error& e) {
      EXPECT_EQ(e.err(), EINTR);
    }
  }
  MapImage image;
  image.on_put = [] { fail(ENOSPC, "no room"); };
  try {
    capture_memory(*snapshot, child.vmas(), image, "", nullptr);
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_EQ(e.err(), ENOSPC);
  }
  ::munmap(base, 16384 * kPage);
}

/// Says in one line where stored content differs; a failed comparison of strings prints megabytes.
std::string difference(const MapImage& image, const char* at, const std::string& expected) {
  const auto bytes = image.bytes_at(at, expected.size());
  if (!bytes) return "not in one segment";
  for (size_t i = 0; i < expected.size(); i++) {
    if ((*bytes)[i] != expected[i]) {
      return fmt::format("page {} byte {}: {:#x}, not {:#x}", i / kPage, i % kPage, (*bytes)[i], expected[i]);
    }
  }
  return "";
}

// ---- every strategy -------------------------------------------------------------------------------------------------

/// The control thread's steps, as in snapshot.h.
void take(Snapshot& snapshot, const Child& child, MapImage& image) {
  if (snapshot.wants_prepare_stop()) {
    const auto vmas = child.vmas();
    {
      StoppedProcess process(child.pid());
      process.stop();
      snapshot.prepare(vmas, process.leader());
    }
    snapshot.arm(vmas);
  }
  StoppedProcess process(child.pid());
  process.stop();
  const auto vmas = child.vmas();
  snapshot.fix(vmas, process.leader());
  if (snapshot.needs_stop()) capture_memory(snapshot, vmas, image, "", nullptr);
  process.resume();
  if (!snapshot.needs_stop()) capture_memory(snapshot, vmas, image, "", nullptr);
  snapshot.release();
}

/// Shared by test and child: the writer's progress, and what the test wants of it.
struct Board {
  std::atomic<uint64_t> written;
  std::atomic<int> command;
  std::atomic<int> done;
};

Board* make_board() {
  void* p = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return new (p) Board();
}

void wait_until(const std::function<bool()>& condition) {
  while (!condition()) std::this_thread::yield();
}

struct Case {
  std::string strategy;
  int advice;
};

class EveryStrategy : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (GetParam().strategy == "kernel" && !module_serves()) GTEST_SKIP() << "the kernel module is not loaded";
  }
};

constexpr uint64_t kWriterPages = 6000;
uint64_t page_of_write(uint64_t n) { return n * 7919 % kWriterPages; }

/// Writes n = 1, 2, 3, ... to pages in a scattered order, first at the begin of the page, then at its end.
void write_for_ever(char* base, Board* board) {
  for (uint64_t n = 1;; n++) {
    char* page = base + page_of_write(n) * kPage;
    std::atomic_ref(*reinterpret_cast<uint64_t*>(page)).store(n);
    std::atomic_ref(*reinterpret_cast<uint64_t*>(page + kPage - 8)).store(n);
    board->written = n;
  }
}

/// Every page must hold the last number written to it up to one and the same number.
void expect_one_instant(const MapImage& image, const char* base) {
  std::vector<uint64_t> front(kWriterPages), back(kWriterPages);
  uint64_t last = 0;
  for (uint64_t i = 0; i < kWriterPages; i++) {
    const auto bytes = image.bytes_at(base + i * kPage, kPage);
    if (!bytes) continue;
    std::memcpy(&front[i], bytes->data(), 8);
    std::memcpy(&back[i], bytes->data() + kPage - 8, 8);
    last = std::max(last, front[i]);
  }
  ASSERT_GT(last, kWriterPages);
  for (uint64_t n = last; n > last - kWriterPages; n--) {
    const uint64_t page = page_of_write(n);
    ASSERT_EQ(front[page], n);
    if (n == last) continue;
    ASSERT_EQ(back[page], n);
  }
}

TEST_P(EveryStrategy, ShowsOneInstantOfAWritingProcess) {
  const Case& c = GetParam();
  char* base = map_pages(kWriterPages);
  ::madvise(base, kWriterPages * kPage, c.advice);
  Board* board = make_board();
  Child child([&](auto& ready) {
    ready();
    write_for_ever(base, board);
  });
  wait_until([&] { return board->written > 2 * kWriterPages; });
  auto snapshot = make_snapshot(c.strategy, {.pid = child.pid()});
  EXPECT_EQ(snapshot->name(), c.strategy);
  MapImage image;
  const bool while_running = c.strategy != "copy";
  image.on_put = [&] {
    if (!while_running) return;
    const uint64_t now = board->written;
    wait_until([&] { return board->written > now + 200; });
  };
  take(*snapshot, child, image);
  expect_one_instant(image, base);
  // It goes on, and nothing is left in it.
  const uint64_t now = board->written;
  wait_until([&] { return board->written > now + 2 * kWriterPages; });
  for (const Vma& vma : child.vmas()) EXPECT_FALSE(vma.has_flag("uw")) << vma.name();
  EXPECT_EQ(read_file(fmt::format("/proc/{0}/task/{0}/children", child.pid())), "");
  ::munmap(base, kWriterPages * kPage);
  ::munmap(board, kPage);
}

TEST_P(EveryStrategy, KeepsEveryKindOfMapping) {
  const Case& c = GetParam();
  char* anon = map_pages(3000);
  ::madvise(anon, 3000 * kPage, c.advice);
  char* none = map_pages(64);
  char* sparse = map_pages((4ull << 30) / kPage);
  char name[] = "/tmp/ckpt_snapshot_XXXXXX";
  const UniqueFd fd(::mkstemp(name));
  ::unlink(name);
  write_all(fd.get(), std::string(16 * kPage, 'f'), name);
  auto* file = static_cast<char*>(::mmap(nullptr, 16 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd.get(), 0));
  Board* board = make_board();
  Child child([&](auto& ready) {
    std::memset(anon, 'a', 2000 * kPage);
    std::memset(none, 'n', 3 * kPage);
    ::mprotect(none, 64 * kPage, PROT_NONE);
    sparse[3ull << 30] = 's';
    file[5 * kPage] = 'c';
    ready();
    wait_until([&] { return board->command == 1; });
    // Old pages, new pages in an old place, and new mappings: none of it may show.
    std::memset(anon, 'X', 3000 * kPage);
    sparse[1ull << 30] = 'X';
    sparse[3ull << 30] = 'X';
    file[5 * kPage] = 'X';
    file[6 * kPage] = 'X';
    board->done = 1;
    for (;;) ::pause();
  });
  auto snapshot = make_snapshot(c.strategy, {.pid = child.pid()});
  MapImage image;
  bool told = false;
  const bool while_running = c.strategy != "copy";
  image.on_put = [&] {
    if (!std::exchange(told, true) && while_running) board->command = 1;
  };
  take(*snapshot, child, image);
  EXPECT_EQ(difference(image, anon, std::string(2000 * kPage, 'a')), "");
  // Stored or not (a huge page), what was not touched is zero.
  if (image.bytes_at(anon + 2001 * kPage, kPage)) {
    EXPECT_EQ(difference(image, anon + 2001 * kPage, std::string(kPage, '\0')), "");
  }
  EXPECT_EQ(difference(image, none, std::string(3 * kPage, 'n')), "");
  EXPECT_EQ(image.bytes_at(sparse + (3ull << 30), 1), "s");
  EXPECT_FALSE(image.bytes_at(sparse + (1ull << 30), 1));
  EXPECT_EQ(image.bytes_at(file + 5 * kPage, 2), "cf");
  EXPECT_FALSE(image.bytes_at(file + 6 * kPage, 1));
  EXPECT_LE(image.stored_within(range_at(sparse, (4ull << 30) / kPage)), 2ull << 20);
  if (while_running) wait_until([&] { return board->done == 1; });
  ::munmap(anon, 3000 * kPage);
  ::munmap(none, 64 * kPage);
  ::munmap(sparse, 4ull << 30);
  ::munmap(file, 16 * kPage);
  ::munmap(board, kPage);
}

/// The child changes its address space between the instant and the copying; see what the snapshot makes of it.
enum class Change { drop, unmap, move, shrink_heap, fork, exit, exec };

struct ChangeCase {
  const char* name;
  Change change;
  bool lost;   ///< by write-protect
};

class Changes : public testing::TestWithParam<ChangeCase> {};

constexpr uint64_t kChangePages = 2500;

void change_memory(Change change, char* base, Board* board) {
  const auto wait_for = [](pid_t child) {
    int status = 0;
    if (child > 0) ::waitpid(child, &status, 0);
    return status;
  };
  switch (change) {
    case Change::drop:
      ::madvise(base + 100 * kPage, 500 * kPage, MADV_DONTNEED);
      std::memset(base + 100 * kPage, 'X', 10 * kPage);
      break;
    case Change::unmap:
      ::munmap(base + 100 * kPage, 500 * kPage);
      break;
    case Change::move: {
      void* target = map_pages(kChangePages);
      ::mremap(base, kChangePages * kPage, kChangePages * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, target);
      std::memset(target, 'X', kPage);
      break;
    }
    case Change::shrink_heap:
      ::sbrk(-400 * static_cast<intptr_t>(kPage));
      break;
    case Change::fork: {
      if (const pid_t child = ::fork(); child == 0) {
        std::memset(base, 'Y', kChangePages * kPage);
        ::_exit(7);
      } else if (WEXITSTATUS(wait_for(child)) != 7) {
        ::_exit(8);
      }
      std::memset(base, 'X', kChangePages * kPage);
      break;
    }
    case Change::exit:
      board->done = 1;
      ::_exit(0);
    case Change::exec:
      board->done = 1;
      ::execl("/bin/sleep", "sleep", "1000", nullptr);
      break;
  }
  board->done = 1;
}

TEST_P(Changes, DuringTheCopyingAreSurvivedOrReported) {
  const ChangeCase& c = GetParam();
  char* base = map_pages(kChangePages);
  ::madvise(base, kChangePages * kPage, MADV_NOHUGEPAGE);
  Board* board = make_board();
  Child child([&](auto& ready) {
    std::memset(base, 'a', kChangePages * kPage);
    if (c.change == Change::shrink_heap) {
      auto* heap = static_cast<char*>(::sbrk(400 * kPage));
      std::memset(heap, 'h', 400 * kPage);
    }
    ready();
    wait_until([&] { return board->command == 1; });
    change_memory(c.change, base, board);
    for (;;) ::pause();
  });
  auto snapshot = make_write_protect_snapshot(child.pid());
  MapImage image;
  bool told = false;
  image.on_put = [&] {
    if (std::exchange(told, true)) return;
    board->command = 1;
    wait_until([&] { return board->done == 1; });
  };
  int err = 0;
  try {
    take(*snapshot, child, image);
  } catch (const SnapshotLost& lost) {
    err = EAGAIN;
    EXPECT_EQ(lost.err(), EAGAIN);
    EXPECT_NE(lost.sentence().find("was not copied"), std::string::npos) << lost.sentence();
  } catch (const Error& e) {
    err = e.err();
  }
  if (c.change == Change::exit || c.change == Change::exec) {
    EXPECT_EQ(err, ESRCH);
  } else {
    // The other worker may have copied all of it before the change came: then nothing is lost, and must be right.
    EXPECT_TRUE(err == 0 || (c.lost && err == EAGAIN)) << errno_text(err);
    if (err == 0) {
      EXPECT_EQ(difference(image, base, std::string(kChangePages * kPage, 'a')), "");
    }
  }
  ::munmap(base, kChangePages * kPage);
  ::munmap(board, kPage);
}

INSTANTIATE_TEST_SUITE_P(
    WriteProtect, Changes,
    testing::Values(ChangeCase{"drop", Change::drop, false}, ChangeCase{"unmap", Change::unmap, true},
                    ChangeCase{"move", Change::move, true}, ChangeCase{"shrink_heap", Change::shrink_heap, true},
                    ChangeCase{"fork", Change::fork, false}, ChangeCase{"exit", Change::exit, false},
                    ChangeCase{"exec", Change::exec, false}),
    [](const auto& tested) { return tested.param.name; });

INSTANTIATE_TEST_SUITE_P(Memory, EveryStrategy,
                         testing::Values(Case{"copy", MADV_NOHUGEPAGE}, Case{"write-protect", MADV_NOHUGEPAGE},
                                         Case{"write-protect", MADV_HUGEPAGE}, Case{"fork", MADV_NOHUGEPAGE},
                                         Case{"fork", MADV_HUGEPAGE}, Case{"kernel", MADV_NOHUGEPAGE},
                                         Case{"kernel", MADV_HUGEPAGE}),
                         [](const auto& tested) {
                           std::string name = tested.param.strategy;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name + (tested.param.advice == MADV_HUGEPAGE ? "_huge" : "");
                         });

// ---- the choice -------------------------------------------------------------------------------------------------

TEST(ChooseSnapshot, CopiesWhatIsSmallOrStaysStopped) {
  char* base = map_pages(8192);
  Child large([&](auto&) { std::memset(base, 1, 8192 * kPage); });
  EXPECT_STREQ(choose_snapshot({.pid = large.pid(), .stays_stopped = true}, large.vmas())->name(), "copy");
  EXPECT_STREQ(choose_snapshot({.pid = large.pid(), .without = "fork"}, large.vmas())->name(), "copy");
  EXPECT_STREQ(choose_snapshot({.pid = large.pid(), .without = "write-protect"}, large.vmas())->name(), "fork");
  if (module_serves()) {
    const SnapshotTarget stays = {.pid = large.pid(), .stays_stopped = true, .engine = EngineChoice::kernel};
    EXPECT_STREQ(choose_snapshot(stays, large.vmas())->name(), "kernel");
    EXPECT_STREQ(choose_snapshot({.pid = large.pid()}, large.vmas())->name(), "kernel");
  } else {
    EXPECT_THROW(choose_snapshot({.pid = large.pid(), .engine = EngineChoice::kernel}, large.vmas()), Error);
  }
  auto vmas = large.vmas();
  vmas[0].vm_flags += " um";
  EXPECT_STREQ(choose_snapshot({.pid = large.pid(), .engine = EngineChoice::ptrace}, vmas)->name(), "fork");
  ::munmap(base, 8192 * kPage);
}

TEST(CopySnapshot, BuffersASmallProcess) {
  char* base = map_pages(64);
  Child child([&](auto&) { std::memset(base, 'b', 64 * kPage); });
  StoppedProcess process(child.pid());
  process.stop();
  const auto vmas = child.vmas();
  auto snapshot = make_copy_snapshot(child.pid(), 512 << 20);
  snapshot->fix(vmas, process.leader());
  EXPECT_FALSE(snapshot->needs_stop());
  process.leader().write({reinterpret_cast<uint64_t>(base)}, std::as_bytes(std::span("XXXX", 4)));
  MapImage image;
  capture_memory(*snapshot, vmas, image, "", nullptr);
  EXPECT_EQ(difference(image, base, std::string(64 * kPage, 'b')), "");
  auto tight = make_copy_snapshot(child.pid(), kPage);
  tight->fix(vmas, process.leader());
  EXPECT_TRUE(tight->needs_stop());
  ::munmap(base, 64 * kPage);
}

/// A process of another user: the userfaultfd must catch faults inside system calls too, which it may not ask for itself.
TEST(WriteProtect, ServesAnUnprivilegedProcessThatReadsIntoItsMemory) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  constexpr uint64_t pages = 2048;
  char* base = map_pages(pages);
  ::madvise(base, pages * kPage, MADV_NOHUGEPAGE);
  Board* board = make_board();
  Child child([&](auto& ready) {
    std::memset(base, 'a', pages * kPage);
    const int zero = ::open("/dev/zero", O_RDONLY);
    if (::setresgid(65534, 65534, 65534) != 0 || ::setresuid(65534, 65534, 65534) != 0) ::_exit(1);
    ready();
    wait_until([&] { return board->command == 1; });
    const ssize_t got = ::read(zero, base, pages * kPage);
    board->done = got == static_cast<ssize_t>(pages * kPage) ? 1 : 2;
    for (;;) ::pause();
  });
  auto snapshot = choose_snapshot({.pid = child.pid()}, child.vmas());
  if (std::string_view(snapshot->name()) != "write-protect") GTEST_SKIP() << "no /dev/userfaultfd";
  const std::string fds = fmt::format("/proc/{}/fd", child.pid());
  const auto count = [&] {
    return std::distance(std::filesystem::directory_iterator(fds), std::filesystem::directory_iterator());
  };
  const auto before = count();
  MapImage image;
  bool told = false;
  image.on_put = [&] {
    if (!std::exchange(told, true)) board->command = 1;
  };
  take(*snapshot, child, image);
  wait_until([&] { return board->done != 0; });
  EXPECT_EQ(board->done, 1);
  EXPECT_EQ(count(), before);
  EXPECT_EQ(difference(image, base, std::string(pages * kPage, 'a')), "");
  ::munmap(base, pages * kPage);
  ::munmap(board, kPage);
}

// The kernel does not wait for a fault of a thread that exits: whoever joins it would wait for ever.
TEST(WriteProtectSnapshot, AThreadMayEndBeforeItsPagesAreCopied) {
  if (::geteuid() != 0) GTEST_SKIP() << "userfaultfd needs privileges";
  Board* board = make_board();
  char* memory = map_pages(16 * kPiecePages);
  auto* word = reinterpret_cast<std::atomic<int>*>(memory + 8 * kPiecePages * kPage);
  Child child([&](auto&) {
    std::memset(memory, 7, 16 * kPiecePages * kPage);
    ::signal(SIGCHLD, SIG_IGN);
    // Waits for `command` and ends without touching any memory that is protected.
    const auto wait_and_end = [](void* b) {
      while (static_cast<Board*>(b)->command == 0) {
      }
      asm volatile("syscall" ::"a"(SYS_exit), "D"(0) : "rcx", "r11", "memory");
      return 0;
    };
    char* stack = map_pages(16);
    const int tid = ::clone(wait_and_end, stack + 16 * kPage, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                            CLONE_SYSVSEM | CLONE_CHILD_CLEARTID | CLONE_PARENT_SETTID, board, word, nullptr, word);
    board->written = static_cast<uint64_t>(tid);
    board->done = 1;
  });
  wait_until([&] { return board->done == 1; });
  auto snapshot = make_write_protect_snapshot(child.pid());
  MapImage image;
  const auto vmas = child.vmas();
  {
    StoppedProcess process(child.pid());
    process.stop();
    snapshot->prepare(vmas, process.leader());
  }
  snapshot->arm(vmas);
  {
    StoppedProcess process(child.pid());
    process.stop();
    snapshot->spare({reinterpret_cast<uint64_t>(word)});
    snapshot->fix(vmas, process.leader());
  }
  board->command = 1;
  int now = -1;
  wait_until([&] { return ::access(fmt::format("/proc/{}/task/{}", child.pid(), board->written.load()).c_str(), F_OK) != 0; });
  RemoteMemory(child.pid()).read(reinterpret_cast<uint64_t>(word), std::as_writable_bytes(std::span(&now, 1)));
  EXPECT_EQ(now, 0) << "its end was not written down";
  capture_memory(*snapshot, vmas, image, "", nullptr);
  snapshot->release();
  const auto then = image.bytes_at(reinterpret_cast<char*>(word), sizeof(int));
  ASSERT_TRUE(then);
  int kept = 0;
  std::memcpy(&kept, then->data(), sizeof kept);
  EXPECT_EQ(static_cast<uint64_t>(kept), board->written.load());
  ::munmap(memory, 16 * kPiecePages * kPage);
  ::munmap(board, kPage);
}

}  // namespace
}  // namespace ckpt
