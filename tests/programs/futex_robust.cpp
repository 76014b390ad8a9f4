// Robust mutexes: the list head of every thread stays registered, so that a thread's death is seen by the next owner.
#include "selfcheck.h"

#include <linux/futex.h>
#include <pthread.h>

#include <atomic>
#include <thread>

namespace {

pthread_mutex_t mutexes[2];
std::atomic<int> held{0};
std::atomic<bool> verify{false};

void* robust_head() {
  void* head = nullptr;
  size_t size = 0;
  must(syscall(SYS_get_robust_list, 0, &head, &size), "get_robust_list");
  return head;
}

void hold_and_die(int who) {
  REQUIRE(pthread_mutex_lock(&mutexes[who]) == 0, "a mutex cannot be locked");
  const void* head = robust_head();
  ++held;
  while (!verify) sleep_ns(2'000'000);
  REQUIRE(head && robust_head() == head, "the robust list was at %p, is at %p", head, robust_head());
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  for (int i = 0; i < 2; ++i) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    if (i == 1) pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
    pthread_mutex_init(&mutexes[i], &attributes);
  }
  std::thread first(hold_and_die, 0), second(hold_and_die, 1);
  wait_until([] { return held == 2; }, "the mutexes are held");
  // A waiter in the kernel for the plain one.
  std::thread waiter([] {
    const int result = pthread_mutex_lock(&mutexes[0]);
    REQUIRE(result == EOWNERDEAD, "a waiter for a robust mutex gets %d", result);
  });
  const pid_t tid = getpid();
  ready();
  wait_for_go([&] { REQUIRE(pthread_mutex_trylock(&mutexes[1]) == EBUSY && getpid() == tid, "a mutex is not held"); });
  verify = true;
  first.join();
  second.join();
  waiter.join();
  const int result = pthread_mutex_lock(&mutexes[1]);
  REQUIRE(result == EOWNERDEAD, "the owner's death is not seen: %d", result);
  return passed();
}
