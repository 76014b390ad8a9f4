// Processes that run before their memory is there: what they do to it meanwhile ends as it does with all of it there.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <algorithm>
#include <random>

#include "engine/engine.h"
#include "engine/image/maps.h"
#include "engine/make_room.h"
#include "engine/memory/lazy_fill.h"
#include "engine/memory/lazy_map.h"
#include "engine/memory/range_set.h"
#include "engine/memory/remote_memory.h"
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

TEST(LazyMapTest, IsWhatItsPagesAre) {
  constexpr uint64_t kPages = 64;
  LazyMap map;
  std::vector<uint64_t> model(kPages);   // 1 + the offset that a page comes from, in pages; 0 for none
  const LazyMap::Path path = std::make_shared<const std::string>("segments/a");
  std::mt19937 random(1);
  for (int round = 0; round < 3000; ++round) {
    const uint64_t a = random() % kPages, pages = 1 + random() % (kPages - a);
    const Range range{a * kPageSize, (a + pages) * kPageSize};
    const uint64_t b = random() % (kPages - pages + 1);
    switch (random() % 3) {
      case 0: {
        const uint64_t offset = random() % 1000;
        map.add(range, path, offset * kPageSize);
        for (uint64_t i = 0; i < pages; ++i) model[a + i] = 1 + offset + i;
        break;
      }
      case 1:
        map.remove(range);
        std::fill_n(model.begin() + static_cast<ptrdiff_t>(a), pages, 0);
        break;
      default: {
        map.move(range, b * kPageSize);
        const std::vector<uint64_t> moved(model.begin() + static_cast<ptrdiff_t>(a),
                                          model.begin() + static_cast<ptrdiff_t>(a + pages));
        std::fill_n(model.begin() + static_cast<ptrdiff_t>(a), pages, 0);
        std::ranges::copy(moved, model.begin() + static_cast<ptrdiff_t>(b));
      }
    }
    ASSERT_EQ(map.bytes(), kPageSize * static_cast<uint64_t>(kPages - static_cast<uint64_t>(std::ranges::count(model, 0))));
    for (uint64_t page = 0; page < kPages; ++page) {
      const auto piece = map.at(page * kPageSize, 8 * kPageSize);
      ASSERT_EQ(piece.has_value(), model[page] != 0) << "page " << page << ", round " << round;
      if (!piece) continue;
      ASSERT_LE(piece->range.start, page * kPageSize);
      ASSERT_GT(piece->range.end, page * kPageSize);
      ASSERT_EQ(piece->range.start / kPageSize / 8, (piece->range.end - 1) / kPageSize / 8);
      for (uint64_t at = piece->range.start; at < piece->range.end; at += kPageSize) {
        ASSERT_EQ(1 + (piece->offset + at - piece->range.start) / kPageSize, model[at / kPageSize]);
      }
    }
    const auto next = map.next(a * kPageSize, 16 * kPageSize);
    ASSERT_EQ(next.has_value(), !map.empty());
    if (next) {
      ASSERT_NE(model[next->range.start / kPageSize], 0u);
    }
  }
}

/// A process with an arena, its image, and what becomes of it.
class LazyTest : public StoreTest {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "a chosen pid needs privileges";
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    const UniqueFd fd(::open((dir_ / "board").c_str(), O_RDWR | O_CREAT, 0600));
    ASSERT_EQ(::ftruncate(fd.get(), sizeof(Board)), 0);
    board_ = new (::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0)) Board;
    arena_ = static_cast<char*>(
        ::mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    {
      const UniqueFd file(::open((dir_ / "mapped").c_str(), O_RDWR | O_CREAT, 0600));
      const auto content = noise(kArenaBytes / 4, 5);
      ASSERT_EQ(::write(file.get(), content.data(), content.size()), static_cast<ssize_t>(content.size()));
    }
    Child child([&] {
      close_all();
      Arena(board_, dir_ / "mapped").serve(arena_);
      return 0;
    });
    ASSERT_TRUE(eventually([&] { return board_->ready == 1; }));
    ASSERT_TRUE(tell({Op::write, 0, 0, kArenaPages, 17}));
    pid_ = child.pid();
    image_ = store_->open_image(checkpoint(*store_, pid_, Caller::self(), {}).name);
  }
  void TearDown() override {
    ::munmap(arena_, kArenaBytes);
    ::munmap(board_, sizeof(Board));
  }

  bool tell(const Order& order) {
    board_->order = order;
    ++board_->told;
    return eventually([&] { return board_->done == board_->told; });
  }

  struct Memory {
    Range range;
    uint32_t prot;
    bool shared;
    std::vector<std::byte> content;
    bool operator==(const Memory& other) const {
      return range.start == other.range.start && range.end == other.range.end && prot == other.prot &&
             shared == other.shared && content == other.content;
    }
  };
  /// Page by page, since neighbours may be one mapping or two.
  std::vector<Memory> memory_of(pid_t pid) const {
    std::vector<Memory> out;
    const RemoteMemory memory(pid);
    const auto start = reinterpret_cast<uint64_t>(arena_);
    for (const Vma& vma : parse_maps(read_file(fmt::format("/proc/{}/maps", pid), 1 << 30), "maps")) {
      for (uint64_t at = std::max(vma.start, start); at < std::min(vma.end, start + kArenaBytes); at += kPageSize) {
        Memory page{{at, at + kPageSize}, vma.prot, vma.shared, std::vector<std::byte>(kPageSize)};
        (void)memory.try_read(at, page.content);   // beyond the end of a file there is nothing
        out.push_back(std::move(page));
      }
    }
    return out;
  }

  void end(pid_t pid) {
    ::kill(pid, SIGKILL);
    while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
  }

  /// What memory the process and its child have when they have done as they are told.
  std::vector<std::vector<Memory>> run(const std::vector<Order>& orders, bool lazily) {
    std::vector<std::vector<Memory>> out;
    board_->child = 0;
    std::shared_ptr<LazyFill> fill;
    if (lazily) {
      fill = set_.begin(image_);
      fill->pause_background(true);
    }
    resume(*image_, Caller::self(), {}, {}, fill.get());
    for (size_t i = 0; i < orders.size(); ++i) {
      // In the end it fills while the last of them are obeyed.
      if (lazily && i == orders.size() / 2) fill->pause_background(false);
      EXPECT_TRUE(tell(orders[i])) << "op " << static_cast<int>(orders[i].op);
    }
    if (lazily) {
      fill->pause_background(false);
      set_.complete(nullptr);
      EXPECT_EQ(set_.size(), 0u);
    }
    const pid_t child = board_->child;
    for (const pid_t pid : {pid_, child}) {
      if (pid != 0) out.push_back(memory_of(pid));
    }
    end(pid_);
    if (child != 0) end(child);
    return out;
  }

  Board* board_ = nullptr;
  char* arena_ = nullptr;
  pid_t pid_ = 0;
  std::shared_ptr<const StoredImage> image_;
  LazySet set_;
};

TEST_F(LazyTest, WhatItDoesMeanwhileEndsAsWithoutIt) {
  const char* seed_text = ::getenv("CKPT_SEED");
  const uint64_t seed = seed_text != nullptr ? std::strtoull(seed_text, nullptr, 10) : std::random_device()();
  SCOPED_TRACE(fmt::format("CKPT_SEED={}", seed));
  std::mt19937_64 random(seed);
  const char* rounds_text = ::getenv("CKPT_ROUNDS");
  const int rounds = rounds_text != nullptr ? std::atoi(rounds_text) : 6;
  for (int round = 0; round < rounds; ++round) {
    std::vector<Order> orders;
    RangeSet mapped_anew;
    const auto pages = [](uint64_t first, uint64_t count) {
      return Range{first * kPageSize, (first + count) * kPageSize};
    };
    for (uint64_t ops = 4 + random() % 30; ops > 0; --ops) {
      Order order{static_cast<Op>(random() % static_cast<int>(Op::last)), 0, 0, 1 + random() % (random() % 8 == 0 ? 900 : 60),
                  random()};
      // Random bytes are others each time, and what MADV_FREE does is the kernel's choice.
      if (order.op == Op::read_into || order.op == Op::lazily_free) order.op = Op::drop;
      order.a = random() % (kArenaPages - order.pages);
      order.b = random() % (kArenaPages - order.pages);
      // mremap(2) moves no more than one mapping, and which neighbours are one depends on what has been touched.
      const bool moves = order.op == Op::move || order.op == Op::move_and_keep;
      if (moves && !mapped_anew.within(pages(order.a, order.pages)).empty()) order.op = Op::write;
      mapped_anew.add(pages(order.a, order.pages));
      mapped_anew.add(pages(order.b, order.pages));
      orders.push_back(order);
    }
    const auto eagerly = run(orders, false), lazily = run(orders, true);
    ASSERT_EQ(eagerly.size(), lazily.size());
    for (size_t i = 0; i < eagerly.size(); ++i) {
      ASSERT_EQ(eagerly[i].size(), lazily[i].size()) << "process " << i << ", round " << round;
      for (size_t page = 0; page < eagerly[i].size(); ++page) {
        ASSERT_TRUE(eagerly[i][page] == lazily[i][page])
            << "process " << i << ", round " << round << ", arena page "
            << (lazily[i][page].range.start - reinterpret_cast<uint64_t>(arena_)) / kPageSize;
      }
    }
  }
}

TEST_F(LazyTest, OnlyWhatIsAskedForComesAtFirst) {
  const auto fill = set_.begin(image_);
  fill->pause_background(true);
  resume(*image_, Caller::self(), {}, {}, fill.get());
  EXPECT_EQ(set_.size(), 1u);
  ASSERT_TRUE(tell({Op::write, 100, 0, 1, 1}));
  EXPECT_GT(set_.bytes_left(), kArenaBytes / 2);
  EXPECT_GE(set_.figures().faults, 1u);
  fill->pause_background(false);
  set_.complete(nullptr);
  EXPECT_EQ(set_.bytes_left(), 0u);
  // Nothing of it is left in the process.
  const std::string smaps = read_file(fmt::format("/proc/{}/smaps", pid_), 1 << 30);
  EXPECT_EQ(smaps.find(" um"), std::string::npos);
  end(pid_);
}

TEST_F(LazyTest, WhoIsNotFilledIsEnded) {
  {
    LazyFigures figures;
    LazyFill fill(image_, figures);
    fill.pause_background(true);
    resume(*image_, Caller::self(), {}, {}, &fill);
    ASSERT_TRUE(tell({Op::fork, 3, 0, 2, 1}));
  }
  int status = 0;
  ASSERT_EQ(::waitpid(pid_, &status, 0), pid_);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  ASSERT_EQ(::waitpid(board_->child, &status, 0), board_->child);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

}  // namespace
}  // namespace ckpt
