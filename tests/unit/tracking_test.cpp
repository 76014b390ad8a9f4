// Checkpoints that read only what was written since the last one: compared with the memory itself, whatever the process did to
// it in between; consistent while it writes; whole when the images they were built upon are gone.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <random>

#include "engine/engine.h"
#include "engine/image/maps.h"
#include "engine/memory/page_scan.h"
#include "engine/memory/range_set.h"
#include "engine/memory/remote_memory.h"
#include "engine/memory/tracking_set.h"
#include "tests/unit/arena.h"
#include "tests/unit/store_fixture.h"
#include "tests/unit/target.h"

namespace ckpt {
namespace {

using test::Arena;
using test::Board;
using test::Child;
using test::close_all;
using test::eventually;
using test::kArenaBytes;
using test::kArenaPages;
using test::Op;
using test::Order;
using test::Shared;

/// By the size from which on there is a stop before the stop.
class TrackingTest : public StoreTest, public testing::WithParamInterface<uint64_t> {
 protected:
  void SetUp() override {
    if (!MemoryTracking::kernel_can()) GTEST_SKIP() << "this kernel has no asynchronous write-protection";
  }

  CheckpointResult take(pid_t pid) {
    CheckpointOptions options;
    options.tracking = &tracking_;
    options.track = true;
    options.engine = EngineChoice::ptrace;
    return checkpoint(*store_, pid, Caller::self(), options);
  }

  /// Whether the image has, of every mapping in `range`, what the process has, who must rest.
  static void expect_same(const ImageSource& image, const std::string& prefix, pid_t pid, Range range) {
    const ImageSegments segments(std::shared_ptr<const ImageSource>(std::shared_ptr<void>(), &image), prefix);
    const RemoteMemory memory(pid);
    const PageScanner scanner(pid);
    const auto vmas = parse_maps(read_file(fmt::format("/proc/{}/maps", pid), 1 << 30), "maps");
    std::vector<std::byte> ours, saved;
    for (const Vma& vma : vmas) {
      if (vma.shared || vma.special() || vma.end <= range.start || vma.start >= range.end) continue;
      const Range mapping{std::max(vma.start, range.start), std::min(vma.end, range.end)};
      RangeSet in_image;
      for (const SamePages& part : segments.within(mapping)) {
        const Range there{mapping.start + part.at, mapping.start + part.at + part.bytes};
        in_image.add(there);
        ours.resize(part.bytes);
        saved.resize(part.bytes);
        memory.read(there.start, ours);
        image.read_at(part.path, part.offset, saved);
        for (size_t i = 0; i < part.bytes; i += kPageSize) {
          ASSERT_EQ(std::memcmp(&ours[i], &saved[i], kPageSize), 0)
              << fmt::format("page {:#x} of {} at arena page {}", there.start + i, vma.name(),
                             (there.start + i - range.start) / kPageSize);
        }
      }
      for (const Range& run : scanner.content(mapping)) {
        ASSERT_TRUE(in_image.outside(run).empty()) << range_name(run) << " is not in the image";
      }
    }
  }

  TrackingSet tracking_{0, GetParam()};
};

TEST_P(TrackingTest, ImagesAreTheMemoryWhateverTheProcessDidToIt) {
  const std::string file = dir_ / "mapped";
  {
    const UniqueFd fd(::open(file.c_str(), O_RDWR | O_CREAT, 0600));
    const auto content = noise(kArenaBytes / 4, 5);
    ASSERT_EQ(::write(fd.get(), content.data(), content.size()), static_cast<ssize_t>(content.size()));
  }
  Shared<Board> board;
  void* const arena = ::mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(arena, MAP_FAILED);
  Child child([&] {
    close_all();
    Arena(&*board, file).serve(static_cast<char*>(arena));
    return 0;
  });
  ASSERT_TRUE(eventually([&] { return board->ready == 1; }));
  const auto start = reinterpret_cast<uint64_t>(arena);
  const Range range{start, start + kArenaBytes};
  const char* seed_text = ::getenv("CKPT_SEED");
  const uint64_t seed = seed_text != nullptr ? std::strtoull(seed_text, nullptr, 10) : std::random_device()();
  SCOPED_TRACE(fmt::format("CKPT_SEED={}", seed));
  std::mt19937_64 random(seed);
  const auto tell = [&](Order order) {
    board->order = order;
    ++board->told;
    return eventually([&] { return board->done == board->told; });
  };
  ASSERT_TRUE(tell({Op::write, 0, 0, kArenaPages, random()}));
  int incremental = 0;
  const char* rounds_text = ::getenv("CKPT_ROUNDS");
  const int rounds = rounds_text != nullptr ? std::atoi(rounds_text) : 25;
  for (int round = 0; round < rounds; ++round) {
    const auto result = take(child.pid());
    incremental += result.incremental ? 1 : 0;
    const auto image = store_->open_image(result.name);
    ASSERT_EQ(result.image_id, image->info().id);
    ASSERT_EQ(result.time_ns, image->info().header.time_ns);
    ASSERT_NO_FATAL_FAILURE(expect_same(*image, "", child.pid(), range)) << "round " << round;
    if (const pid_t grandchild = board->child; grandchild != 0) {
      ASSERT_NO_FATAL_FAILURE(expect_same(*image, process_prefix(grandchild, child.pid()), grandchild, range))
          << "child, round " << round;
    }
    if (round % 25 == 24) {
      ASSERT_NO_THROW(verify_image(*image)) << "round " << round;
    }
    for (uint64_t ops = random() % 12; ops > 0; --ops) {
      Order order{static_cast<Op>(random() % static_cast<int>(Op::last)), 0, 0, 1 + random() % (random() % 8 == 0 ? 900 : 60),
                  random()};
      order.a = random() % (kArenaPages - order.pages);
      order.b = random() % (kArenaPages - order.pages);
      ASSERT_TRUE(tell(order)) << "op " << static_cast<int>(order.op);
    }
  }
  EXPECT_GT(incremental, rounds / 2);
  ASSERT_TRUE(tell({Op::reap, 0, 0, 0, 0}));
  // Every image is whole without the others.
  const std::string last = std::to_string(child.pid());
  for (const ImageInfo& info : store_->images()) {
    if (info.name != last) store_->delete_image(info.name);
  }
  store_->collect_garbage(false);
  EXPECT_NO_THROW(verify_image(*store_->open_image(last)));
  ::munmap(arena, kArenaBytes);
}

// Pages that are written in order, over and over: at any instant those of this round come before those of the last one.
TEST_P(TrackingTest, AnImageIsOfOneInstantWhileTheProcessWrites) {
  constexpr uint64_t kPages = 2000;
  struct Progress {
    std::atomic<int> ready{0};
    std::atomic<uint64_t> round{0};
  };
  Shared<Progress> progress;
  auto* const memory = static_cast<volatile uint64_t*>(
      ::mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  const auto word = [&](uint64_t page) { return &memory[page * kPageSize / sizeof(uint64_t)]; };
  Child child([&] {
    close_all();
    for (uint64_t page = 0; page < kPages; ++page) *word(page) = 1;
    progress->ready = 1;
    for (uint64_t round = 2;; ++round) {
      for (uint64_t page = 0; page < kPages; ++page) {
        *word(page) = round;
        if (page % 100 == 0) ::usleep(50);
      }
      progress->round = round;
    }
    return 0;
  });
  ASSERT_TRUE(eventually([&] { return progress->ready == 1; }));
  const auto start = reinterpret_cast<uint64_t>(memory);
  int incremental = 0;
  uint64_t before = 0;
  for (int i = 0; i < 12; ++i) {
    const auto result = take(child.pid());
    incremental += result.incremental ? 1 : 0;
    const auto image = store_->open_image(result.name);
    const ImageSegments segments(image, "");
    std::vector<std::byte> saved(kPages * kPageSize);
    uint64_t covered = 0;
    for (const SamePages& part : segments.within({start, start + saved.size()})) {
      image->read_at(part.path, part.offset, std::span(saved).subspan(part.at, part.bytes));
      covered += part.bytes;
    }
    ASSERT_EQ(covered, saved.size());
    std::vector<uint64_t> words(kPages);
    for (uint64_t page = 0; page < kPages; ++page) std::memcpy(&words[page], &saved[page * kPageSize], sizeof(uint64_t));
    for (uint64_t page = 1; page < kPages; ++page) ASSERT_LE(words[page], words[page - 1]) << "page " << page;
    EXPECT_LE(words.front() - words.back(), 1u);
    EXPECT_GE(words.front(), before);
    before = words.front();
  }
  EXPECT_GT(incremental, 6);
  const uint64_t then = progress->round;
  EXPECT_TRUE(eventually([&] { return progress->round > then + 1; }));
  ::munmap(const_cast<uint64_t*>(memory), kPages * kPageSize);
}

TEST_P(TrackingTest, NewBytesAreThoseThatWereWritten) {
  constexpr uint64_t kPages = 8'192;
  struct Steps {
    std::atomic<int> told{0}, done{-1};
  };
  Shared<Steps> steps;
  const auto content = noise(kPages * kPageSize, 3);
  auto* const memory = static_cast<std::byte*>(
      ::mmap(nullptr, content.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ::madvise(memory, content.size(), MADV_NOHUGEPAGE);
  Child child([&] {
    close_all();
    std::memcpy(memory, content.data(), content.size());
    std::mt19937_64 random(9);
    for (int step = 0;; ++step) {
      steps->done = step;
      while (steps->told <= step) ::usleep(200);
      for (int i = 0; i < 80; ++i) {
        const uint64_t value = random();
        std::memcpy(&memory[random() % kPages * kPageSize], &value, sizeof value);
      }
    }
    return 0;
  });
  ASSERT_TRUE(eventually([&] { return steps->done == 0; }));
  const auto first = store_->open_image(take(child.pid()).name)->info().header.new_bytes.value();
  EXPECT_GE(first, content.size());
  for (int step = 1; step <= 3; ++step) {
    steps->told = step;
    ASSERT_TRUE(eventually([&] { return steps->done == step; }));
    const CheckpointResult result = take(child.pid());
    EXPECT_TRUE(result.incremental);
    const auto image = store_->open_image(result.name);
    EXPECT_LE(image->info().header.new_bytes.value(), first * 12 / 1000);
    EXPECT_NO_THROW(verify_image(*image));
  }
  ::munmap(memory, content.size());
}

// What came before execve(2) is of no use after it, and a plain checkpoint in between does no harm.
TEST_P(TrackingTest, SurvivesExecAndOtherKindsOfCheckpoint) {
  struct Signal {
    std::atomic<bool> go{false};
  };
  Shared<Signal> signal;
  Child child([&] {
    close_all();
    const auto content = noise(1 << 20, 4);
    while (!signal->go) ::usleep(500);
    ::execl("/bin/sleep", "sleep", "1000", nullptr);
    return 1;
  });
  const auto name = [&] { return read_status(child.pid()).name; };
  take(child.pid());
  EXPECT_TRUE(take(child.pid()).incremental);
  signal->go = true;
  ASSERT_TRUE(eventually([&] { return name() == "sleep"; }));
  EXPECT_FALSE(take(child.pid()).incremental);
  EXPECT_TRUE(eventually([&] { return take(child.pid()).incremental; }));
  CheckpointOptions cpu;
  cpu.tracking = &tracking_;
  cpu.memory = false;
  cpu.name = "cpu";
  EXPECT_FALSE(checkpoint(*store_, child.pid(), Caller::self(), cpu).incremental);
  EXPECT_TRUE(take(child.pid()).incremental);
  EXPECT_NO_THROW(verify_image(*store_->open_image(std::to_string(child.pid()))));
  // A full one ends it, whoever it is followed for.
  EXPECT_TRUE(tracking_.follows_for(child.pid()));
  EXPECT_FALSE(tracking_.follows_for(getpid()));
  CheckpointOptions full;
  full.tracking = &tracking_;
  full.full = true;
  full.name = "full";
  EXPECT_FALSE(checkpoint(*store_, child.pid(), Caller::self(), full).incremental);
  EXPECT_FALSE(tracking_.follows_for(child.pid()));
  take(child.pid());
  EXPECT_TRUE(take(child.pid()).incremental);
  // The end takes every trace with it.
  tracking_.forget(child.pid());
  const std::string smaps = read_file(fmt::format("/proc/{}/smaps", child.pid()), 1 << 30);
  EXPECT_EQ(smaps.find(" uw"), std::string::npos);
  EXPECT_TRUE(child.alive());
}

INSTANTIATE_TEST_SUITE_P(Of, TrackingTest, testing::Values(UINT64_MAX, 0),
                         [](const auto& size) { return size.param == 0 ? "large" : "small"; });

}  // namespace
}  // namespace ckpt
