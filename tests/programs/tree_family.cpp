// Children in several generations, some of them made by threads; each has memory of its own.
#include <thread>

#include "family.h"

namespace {

void check_memory(std::vector<char>& memory, uint64_t seed) {
  require_filled(memory.data(), memory.size(), seed, "memory");
  fill(memory.data(), memory.size(), seed + 100);
}

/// One of `depth` more generations, each of two children; the second is the child of a thread.
void generation(Roll& roll, int depth, uint64_t seed) {
  std::vector<char> memory(200'000 + 50'000 * seed);
  fill(memory.data(), memory.size(), seed);
  pid_t first = 0, second = 0;
  std::atomic<bool> done{false};
  std::atomic<pid_t> made{0};
  std::thread other;
  if (depth > 0) {
    first = child([&] { generation(roll, depth - 1, seed * 2); });
    other = std::thread([&] {
      made = child([&] { generation(roll, depth - 1, seed * 2 + 1); });
      while (!done) sleep_ns(1'000'000);
      // Only this thread has it (__WNOTHREAD).
      int status = 0;
      REQUIRE(waitpid(made, &status, __WNOTHREAD) == made && status == 0, "a child of a thread has ended with %#x", status);
    });
    wait_until([&] { return made != 0; }, "a thread has made a child");
    second = made;
  }
  roll.here();
  wait_in_place(("process of generation " + std::to_string(depth)).c_str());
  check_memory(memory, seed);
  if (depth == 0) return;
  REQUIRE(waitpid(second, nullptr, WNOHANG | __WNOTHREAD) == -1 && errno == ECHILD,
          "the child of a thread is the main thread's");
  join(first);
  done = true;
  other.join();
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  Roll roll;
  const pid_t tree = child([&] { generation(roll, 2, 1); });
  roll.wait_for(7);
  ready();
  wait_in_place("the first");
  join(tree);
  return passed();
}
