// pause: only a signal with a handler ends it.
#include "underway.h"

#include <pthread.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  action.sa_flags = SA_RESTART;  // pause ends all the same
  must(sigaction(SIGUSR1, &action, nullptr), "sigaction");
  std::atomic<pthread_t> thread{0};
  UnderWay waiter(SYS_pause, [&] {
    thread = pthread_self();
    REQUIRE(pause() == -1 && errno == EINTR, "pause gives %s", strerror(errno));
  });
  ready();
  wait_for_go([&] { waiter.require_inside("pause"); });
  waiter.wait_inside();
  waiter.require_inside("pause");
  pthread_kill(thread, SIGUSR1);
  waiter.join();
  return passed();
}
