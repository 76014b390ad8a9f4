// A process that does to its memory what it is told.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <optional>
#include <random>
#include <string>

#include "engine/image/maps.h"

namespace ckpt::test {

constexpr uint64_t kArenaPages = 2048;
constexpr uint64_t kArenaBytes = kArenaPages * kPageSize;

enum class Op : int { write, write_one, read_into, unmap, map, map_file, move, move_and_keep, drop, lazily_free, protect,
                      huge, fork, reap, last };

struct Order {
  Op op;
  uint64_t a, b, pages, seed;   // a and b: first pages
};

struct Board {
  std::atomic<int> ready{0};
  std::atomic<uint64_t> told{0};
  std::atomic<uint64_t> done{0};
  std::atomic<pid_t> child{0};
  std::atomic<int> child_done{0};
  Order order{};
};

class Arena {
 public:
  Arena(Board* board, std::string file) : board_(board), file_(std::move(file)) {}

  [[noreturn]] void serve(char* start) {
    start_ = start;
    board_->ready = 1;
    for (;;) {
      while (board_->told == board_->done) ::usleep(200);
      obey(board_->order);
      ++board_->done;
    }
  }

 private:
  char* at(uint64_t page) const { return start_ + page * kPageSize; }
  bool writable(uint64_t page) const {
    // A write that the kernel makes tells without a signal.
    const int null = ::open("/dev/zero", O_RDONLY);
    char byte = *this->readable(page) ? *at(page) : 0;
    const bool can = ::read(null, at(page), 1) == 1;
    if (can) *at(page) = byte;
    ::close(null);
    return can;
  }
  std::optional<char> readable(uint64_t page) const {
    char byte = 0;
    const iovec mine{&byte, 1}, its{at(page), 1};
    if (::process_vm_readv(::getpid(), &mine, 1, &its, 1, 0) != 1) return std::nullopt;
    return byte;
  }
  void write(const Order& o) const {
    std::mt19937_64 random(o.seed);
    for (uint64_t p = o.a; p < o.a + o.pages; ++p) {
      if (!readable(p) || !writable(p)) continue;
      std::memset(at(p), static_cast<int>(random() % 3 == 0 ? 0 : random()), random() % 2 == 0 ? kPageSize : 100);
    }
  }
  void obey(const Order& o) {
    const size_t bytes = o.pages * kPageSize;
    constexpr int kRw = PROT_READ | PROT_WRITE;
    switch (o.op) {
      case Op::write: return write(o);
      case Op::write_one: {
        std::mt19937_64 random(o.seed);
        for (uint64_t p = o.a; p < o.a + o.pages; p += 1 + random() % 9) write({o.op, p, 0, 1, random()});
        return;
      }
      case Op::read_into: (void)!::getrandom(at(o.a), bytes, 0); return;
      case Op::unmap: ::munmap(at(o.a), bytes); return;
      case Op::map:
        ::mmap(at(o.a), bytes, kRw, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        return write({o.op, o.a, 0, o.pages / 2, o.seed});
      case Op::map_file: {
        const int fd = ::open(file_.c_str(), O_RDONLY);
        ::mmap(at(o.a), bytes, kRw, MAP_PRIVATE | MAP_FIXED, fd, 0);
        ::close(fd);
        return write({o.op, o.a, 0, o.pages / 3, o.seed});
      }
      case Op::move: ::mremap(at(o.a), bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at(o.b)); return;
      case Op::move_and_keep:
        ::mremap(at(o.a), bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, at(o.b));
        return;
      case Op::drop: ::madvise(at(o.a), bytes, MADV_DONTNEED); return;
      case Op::lazily_free: ::madvise(at(o.a), bytes, MADV_FREE); return;
      case Op::protect: ::mprotect(at(o.a), bytes, o.seed % 2 == 0 ? PROT_READ : kRw); return;
      case Op::huge: ::madvise(at(o.a), bytes, o.seed % 2 == 0 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE); return;
      case Op::fork: return fork_one(o);
      case Op::reap:
        if (board_->child == 0) return;
        ::kill(board_->child, SIGKILL);
        ::waitpid(board_->child, nullptr, 0);
        board_->child = 0;
        return;
      case Op::last: return;
    }
  }
  void fork_one(const Order& o) {
    if (board_->child != 0) return write(o);
    board_->child_done = 0;
    const pid_t child = ::fork();
    if (child == 0) {
      write(o);
      board_->child_done = 1;
      for (;;) ::pause();
    }
    while (board_->child_done == 0) ::usleep(100);
    board_->child = child;
  }

  Board* const board_;
  const std::string file_;
  char* start_ = nullptr;
};

}  // namespace ckpt::test
