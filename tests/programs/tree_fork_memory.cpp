// Memory that fork(2) has left in common, copy on write, over two generations: each process has its own content, and what
// nobody has changed is there once. After a checkpoint and after a resume as well.
#include <sys/mman.h>

#include "family.h"

namespace {

constexpr size_t kPage = 4096, kPages = 2048;
constexpr const char* kFirst = "the first";
char* memory = nullptr;
std::atomic<int>* met = nullptr;  // in memory that all four share

/// How many of its pages a process shares with others, as the kernel counts them, from all of its mappings in there.
size_t shared_pages() {
  const std::string all = read_text("/proc/self/smaps");
  const auto begin = reinterpret_cast<uintptr_t>(memory), end = begin + kPages * kPage;
  size_t kilobytes = 0;
  bool inside = false;
  for (size_t at = 0; at < all.size(); at = all.find('\n', at) + 1) {
    unsigned long first = 0, last = 0, size = 0;
    if (sscanf(all.c_str() + at, "%lx-%lx ", &first, &last) == 2) inside = begin <= first && last <= end;
    if (inside && (sscanf(all.c_str() + at, "Shared_Dirty: %lu", &size) == 1 ||
                   sscanf(all.c_str() + at, "Shared_Clean: %lu", &size) == 1)) {
      kilobytes += size;
    }
  }
  return kilobytes * 1024 / kPage;
}

/// Pages with a content of their own, by the seed of that; 0 for none, which has been given back.
using Changes = std::vector<std::pair<size_t, uint64_t>>;

void change(const Changes& changes) {
  for (const auto& [page, seed] : changes) {
    if (seed == 0) {
      must(madvise(memory + page * kPage, kPage, MADV_DONTNEED), "MADV_DONTNEED");
    } else {
      fill(memory + page * kPage, kPage, seed);
    }
  }
}

void require_content(const Changes& changes, const char* who) {
  for (size_t page = 0; page < kPages; ++page) {
    uint64_t seed = page + 1;
    for (const auto& [changed, own] : changes) {
      if (changed == page) seed = own;
    }
    if (seed == 0) {
      require_zero(memory + page * kPage, kPage, who);
    } else {
      require_filled(memory + page * kPage, kPage, seed, who);
    }
  }
}

Changes some(size_t first, uint64_t seed, size_t given_back) {
  Changes changes;
  for (size_t page = first; page < first + 20; ++page) changes.emplace_back(page, seed + page);
  for (size_t page = given_back; page < given_back + 4; ++page) changes.emplace_back(page, 0);
  return changes;
}

/// Comes when all four have.
void meet(int time) {
  ++*met;
  wait_until([time] { return *met >= 4 * time; }, "all have come as far");
}

/// What is shared depends on what the others have done, and that they are there.
void verify(const Changes& changes, const char* who) {
  meet(1);
  const size_t before = shared_pages();
  meet(2);
  if (who == kFirst) ready();
  wait_in_place(who);
  const size_t now = shared_pages();
  meet(3);
  require_content(changes, who);
  // What the one that made them has changed since, 24 pages, each of the others has for itself; a few are written by whoever
  // makes the process again.
  REQUIRE(now + 24 + 16 >= before, "%s shares %zu pages of %zu, and did share %zu", who, now, kPages, before);
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  met = reinterpret_cast<std::atomic<int>*>(
      must_map(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), "mmap"));
  memory = must_map(mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
  must(madvise(memory, kPages * kPage, MADV_NOHUGEPAGE), "MADV_NOHUGEPAGE");
  for (size_t page = 0; page < kPages; ++page) fill(memory + page * kPage, kPage, page + 1);

  const pid_t reader = child([] {
    must(mprotect(memory + 1024 * kPage, 256 * kPage, PROT_READ), "mprotect");
    verify({}, "the one that changes nothing");
  });
  const pid_t writer = child([] {
    Changes changes = some(100, 5000, 300);
    change(changes);
    const pid_t below = child([&changes] {
      Changes more = some(110, 9000, 302);
      change(more);
      more.insert(more.begin(), changes.begin(), changes.end());
      verify(more, "the grandchild");
    });
    verify(changes, "the one that writes");
    join(below);
  });
  const Changes changes = some(700, 20000, 900);
  change(changes);
  verify(changes, kFirst);
  join(reader);
  join(writer);
  return passed();
}
