// A hundred threads, each waiting at the same barrier, among them some whose tids leave gaps.
#include "selfcheck.h"

#include <pthread.h>

#include <atomic>
#include <thread>
#include <vector>

int main(int argc, char** argv) {
  begin(argc, argv);
  constexpr int count = 100;
  static pthread_barrier_t barrier;
  pthread_barrier_init(&barrier, nullptr, count + 1);
  std::atomic<int> waiting{0}, passed_by{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    std::thread([] {}).join();
    threads.emplace_back([&, i] {
      char text[5000];
      fill(text, sizeof text, i);
      const pid_t tid = thread_id();
      ++waiting;
      pthread_barrier_wait(&barrier);
      require_filled(text, sizeof text, i, "the stack of a thread");
      REQUIRE(thread_id() == tid, "a thread has another tid");
      ++passed_by;
    });
  }
  wait_until([&] { return waiting == count; }, "all threads wait");
  ready();
  wait_for_go();
  REQUIRE(passed_by == 0, "%d threads have passed a barrier that is not full", passed_by.load());
  pthread_barrier_wait(&barrier);
  for (std::thread& thread : threads) thread.join();
  return passed();
}
