// Eight threads with names and thread-local counters, taking turns through a mutex and a condition variable.
#include "selfcheck.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace {

constexpr int count = 8;
std::mutex mutex;
std::condition_variable turn_changed;
int turn = 0;
uint64_t total = 0;
bool stop = false;
pid_t tids[count];
thread_local uint64_t mine = 0;
thread_local std::string name;

void take_turns(int who) {
  name = "turner " + std::to_string(who);
  pthread_setname_np(pthread_self(), name.c_str());
  const pthread_t self = pthread_self();
  tids[who] = thread_id();
  for (;;) {
    std::unique_lock lock(mutex);
    turn_changed.wait(lock, [&] { return turn == who || stop; });
    if (stop) break;
    REQUIRE(mine == total / count, "thread %d has had %llu turns, not %llu", who,
            static_cast<unsigned long long>(mine), static_cast<unsigned long long>(total / count));
    REQUIRE(pthread_equal(self, pthread_self()) && thread_id() == tids[who], "thread %d has become another", who);
    ++mine;
    ++total;
    turn = (turn + 1) % count;
    turn_changed.notify_all();
  }
  char text[32];
  pthread_getname_np(pthread_self(), text, sizeof text);
  REQUIRE(name == text, "thread %d is named %s", who, text);
}

uint64_t now_total() {
  std::lock_guard lock(mutex);
  return total;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const pid_t pid = getpid();
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back(take_turns, i);
  wait_until([] { return now_total() > 100; }, "the threads take turns");
  ready();
  wait_for_go();
  REQUIRE(getpid() == pid && thread_id() == pid, "the process has become another");
  REQUIRE(status_line("Threads") == "9", "there are %s threads", status_line("Threads").c_str());
  const uint64_t before = now_total();
  wait_until([&] { return now_total() > before + 100; }, "the threads take turns again");
  for (int i = 0; i < count; ++i) {
    const std::string comm = read_text("/proc/self/task/" + std::to_string(tids[i]) + "/comm");
    REQUIRE(comm == "turner " + std::to_string(i) + "\n", "thread %d is named %s", i, comm.c_str());
  }
  {
    std::lock_guard lock(mutex);
    stop = true;
  }
  turn_changed.notify_all();
  for (std::thread& thread : threads) thread.join();
  std::thread([] { mine = 1; }).join();  // new threads can still be made
  return passed();
}
