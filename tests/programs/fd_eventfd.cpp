// eventfd: the counter, semaphore mode, sharing.
#include "selfcheck.h"

#include <sys/eventfd.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  const int counter = must(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd");
  const int semaphore = must(eventfd(3, EFD_NONBLOCK | EFD_SEMAPHORE), "eventfd");
  const int large = must(eventfd(0, EFD_NONBLOCK), "eventfd");
  const int empty = must(eventfd(0, EFD_NONBLOCK), "eventfd");
  const int shared = must(dup(counter), "dup");
  must(eventfd_write(counter, 41), "eventfd_write");
  must(eventfd_write(large, 0xfffffffffffffffe), "eventfd_write");
  ready();
  wait_for_go();
  eventfd_t value = 0;
  must(eventfd_write(shared, 1), "eventfd_write");
  REQUIRE(eventfd_read(counter, &value) == 0 && value == 42, "the counter holds %llu",
          static_cast<unsigned long long>(value));
  for (int i = 0; i < 3; ++i)
    REQUIRE(eventfd_read(semaphore, &value) == 0 && value == 1, "the semaphore gives %llu",
            static_cast<unsigned long long>(value));
  REQUIRE(eventfd_read(semaphore, &value) == -1 && errno == EAGAIN, "the semaphore has too many");
  REQUIRE(eventfd_write(large, 1) == -1 && errno == EAGAIN, "the full counter is not full");
  REQUIRE(eventfd_read(large, &value) == 0 && value == 0xfffffffffffffffe, "the full counter holds %llx",
          static_cast<unsigned long long>(value));
  REQUIRE(eventfd_read(empty, &value) == -1 && errno == EAGAIN, "the empty counter is not empty");
  REQUIRE(fcntl(counter, F_GETFD) == FD_CLOEXEC && fcntl(large, F_GETFD) == 0, "close-on-exec is wrong");
  return passed();
}
