// Memory as of one instant: two threads that never rest walk through their pages and count each up by one, and find
// every page exactly as they left it a round ago. A page from before or after the checkpoint would be out of step.
#include "selfcheck.h"

#include <sys/mman.h>

#include <atomic>
#include <thread>

namespace {

constexpr size_t pages = 4096;
std::atomic<bool> stop{false};
std::atomic<uint64_t> rounds[2];

void walk(uint64_t* memory, int who) {
  for (uint64_t round = 1; !stop; ++round) {
    for (size_t i = 0; i < pages; ++i) {
      uint64_t* const page = memory + i * 512;
      REQUIRE(page[i % 512] == round - 1, "thread %d, page %zu: holds %llu in round %llu", who, i,
              static_cast<unsigned long long>(page[i % 512]), static_cast<unsigned long long>(round));
      page[i % 512] = round;
    }
    rounds[who] = round;
  }
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  char* a = must_map(mmap(nullptr, pages * 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
  std::thread first(walk, reinterpret_cast<uint64_t*>(a), 0);
  std::thread second(walk, reinterpret_cast<uint64_t*>(a + pages * 4096), 1);
  wait_until([] { return rounds[0] > 2 && rounds[1] > 2; }, "both threads have gone round");
  ready();
  wait_for_go();
  const uint64_t seen[2] = {rounds[0], rounds[1]};
  wait_until([&] { return rounds[0] > seen[0] + 2 && rounds[1] > seen[1] + 2; }, "both threads go on");
  stop = true;
  first.join();
  second.join();
  return passed();
}
