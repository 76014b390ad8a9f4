// Memory that several processes share: anonymous, a memfd with seals that only one has open, a POSIX object without a name, a
// named file; futexes in it that a process waits for, and a robust one whose owner goes on.
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>

#include <atomic>
#include <thread>

#include "family.h"

namespace {

constexpr size_t kSize = 3 << 20;

struct Common {
  std::atomic<uint32_t> word;
  std::atomic<uint32_t> turns[2];
  std::atomic<bool> stop;
  sem_t semaphore;
  pthread_mutex_t mutex;
  char filled[1 << 20];
};

char* map_shared(int fd, size_t size = kSize) {
  const int flags = MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0);
  return must_map(mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, 0), "mmap");
}

int unnamed_object() {
  const std::string name = "/ckpt-tree-" + std::to_string(getpid());
  const int fd = must(shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600), "shm_open");
  must(shm_unlink(name.c_str()), "shm_unlink");
  must(ftruncate(fd, kSize), "ftruncate");
  return fd;
}

void wait_on(std::atomic<uint32_t>& word, uint32_t value) {
  while (word == value) syscall(SYS_futex, &word, FUTEX_WAIT, value, nullptr, nullptr, 0);
}

void wake(std::atomic<uint32_t>& word) { syscall(SYS_futex, &word, FUTEX_WAKE, 1, nullptr, nullptr, 0); }

/// Each in turn, through the futex; both must be there, or it stands still.
void play(Common& common, uint32_t me) {
  while (!common.stop) {
    wait_on(common.word, 1 - me);
    common.turns[me] += 1;
    common.word = 1 - me;
    wake(common.word);
  }
  common.word = 1 - me;
  wake(common.word);
}

void make_mutex(pthread_mutex_t& mutex) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&mutex, &attributes);
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  Roll roll;
  auto& common = *new (map_shared(-1, sizeof(Common))) Common;
  fill(common.filled, sizeof common.filled, 1);
  sem_init(&common.semaphore, 1, 0);
  make_mutex(common.mutex);
  const int sealed = must(static_cast<int>(memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING)), "memfd_create");
  must(ftruncate(sealed, kSize), "ftruncate");
  char* in_sealed = map_shared(sealed);
  fill(in_sealed, kSize, 2);
  must(fcntl(sealed, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK), "F_ADD_SEALS");
  const int object = unnamed_object();
  char* in_object = map_shared(object);
  fill(in_object + (1 << 20), 1 << 20, 3);
  close(object);
  const int named = must(open(make_file("named", kSize, 4).c_str(), O_RDWR | O_CLOEXEC), "open");
  char* in_named = map_shared(named);
  close(named);

  const pid_t player = child([&] {
    roll.here();
    const Place place;
    play(common, 1);
    place.require_same("the player");
  });
  const pid_t waiter = child([&] {
    roll.here();
    // Across the checkpoint.
    while (sem_wait(&common.semaphore) != 0) REQUIRE(errno == EINTR, "sem_wait: %s", strerror(errno));
    REQUIRE(access(path("go").c_str(), F_OK) == 0, "the semaphore was posted by nobody");
    in_object[0] = 'w';
  });
  const pid_t owner = child([&] {
    close(sealed);
    REQUIRE(pthread_mutex_lock(&common.mutex) == 0, "pthread_mutex_lock");
    // Mapped elsewhere, too.
    char* again = static_cast<char*>(mremap(in_sealed, kSize, kSize, MREMAP_MAYMOVE | MREMAP_FIXED, map_shared(-1)));
    roll.here();
    wait_in_place("the owner of a mutex");
    require_filled(again, kSize, 2, "the memfd in the owner");
    again[1] = 'o';
    in_named[2] = 'o';
    // And ends with it locked.
  });
  roll.wait_for(3);
  std::thread player_here([&] { play(common, 0); });
  wait_until([&] { return common.turns[0] > 10 && common.turns[1] > 10; }, "the two play");
  ready();
  uint32_t before = common.turns[1];
  wait_in_place("the first", [&] {
    wait_until([&] { return common.turns[1] != before; }, "the other plays on");
    before = common.turns[1];
  });

  require_filled(common.filled, sizeof common.filled, 1, "anonymous memory");
  require_filled(in_object + (1 << 20), 1 << 20, 3, "memory without a name");
  sem_post(&common.semaphore);
  join(waiter);
  REQUIRE(in_object[0] == 'w', "memory without a name is not the waiter's");
  join(owner);
  REQUIRE(in_sealed[1] == 'o', "the memfd is not the owner's");
  REQUIRE(in_named[2] == 'o', "the file is not the owner's");
  REQUIRE(fcntl(sealed, F_GET_SEALS) == (F_SEAL_GROW | F_SEAL_SHRINK), "the seals are %#x", fcntl(sealed, F_GET_SEALS));
  REQUIRE(pthread_mutex_lock(&common.mutex) == EOWNERDEAD, "the robust mutex does not know of its owner's end");
  common.stop = true;
  player_here.join();
  join(player);
  return passed();
}
