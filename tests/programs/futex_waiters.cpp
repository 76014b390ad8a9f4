// Threads asleep in a futex: a mutex, a mutex with priority inheritance, a condition variable with a deadline, a
// semaphore. None wakes before its time, each wakes at it.
#include "selfcheck.h"

#include <pthread.h>
#include <semaphore.h>

#include <atomic>
#include <thread>

namespace {

pthread_mutex_t plain = PTHREAD_MUTEX_INITIALIZER, inheriting, condition_mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
sem_t semaphore;
std::atomic<int> woken{0};
std::atomic<pid_t> tids[4];
bool signalled = false;

void wait_plain() {
  tids[0] = thread_id();
  pthread_mutex_lock(&plain);
  ++woken;
  pthread_mutex_unlock(&plain);
}

void wait_inheriting() {
  tids[1] = thread_id();
  const int result = pthread_mutex_lock(&inheriting);
  REQUIRE(result == 0, "a mutex with priority inheritance gives %d", result);
  ++woken;
  pthread_mutex_unlock(&inheriting);
}

void wait_condition() {
  tids[2] = thread_id();
  pthread_mutex_lock(&condition_mutex);
  const timespec limit = as_timespec(now_ns(CLOCK_REALTIME) + 3600'000'000'000);
  while (!signalled) {
    const int result = pthread_cond_timedwait(&condition, &condition_mutex, &limit);
    REQUIRE(result == 0, "pthread_cond_timedwait gives %d", result);
  }
  ++woken;
  pthread_mutex_unlock(&condition_mutex);
}

void wait_semaphore() {
  tids[3] = thread_id();
  REQUIRE(sem_wait(&semaphore) == 0, "sem_wait: %s", strerror(errno));
  ++woken;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
  pthread_mutex_init(&inheriting, &attributes);
  sem_init(&semaphore, 0, 0);
  pthread_mutex_lock(&plain);
  pthread_mutex_lock(&inheriting);
  std::thread threads[] = {std::thread(wait_plain), std::thread(wait_inheriting), std::thread(wait_condition),
                           std::thread(wait_semaphore)};
  for (auto& tid : tids) {
    wait_until([&] { return tid != 0; }, "the threads run");
    wait_in_syscall(tid, SYS_futex);
  }
  ready();
  wait_for_go([] { REQUIRE(woken == 0, "%d threads have woken too early", woken.load()); });
  for (auto& tid : tids) wait_inside(tid, SYS_futex);
  REQUIRE(woken == 0, "%d threads have woken too early", woken.load());
  pthread_mutex_unlock(&plain);
  REQUIRE(pthread_mutex_unlock(&inheriting) == 0, "the mutex with priority inheritance cannot be unlocked");
  pthread_mutex_lock(&condition_mutex);
  signalled = true;
  pthread_cond_signal(&condition);
  pthread_mutex_unlock(&condition_mutex);
  sem_post(&semaphore);
  for (std::thread& thread : threads) thread.join();
  REQUIRE(woken == 4, "%d threads have woken", woken.load());
  return passed();
}
