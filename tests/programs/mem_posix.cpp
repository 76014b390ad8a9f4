// POSIX shared memory and a named semaphore: they come back with the process, whether their files in /dev/shm have gone meanwhile, have been
// changed, or are as they were. An open file beside them, without which there is no resume.
#include "selfcheck.h"

#include <semaphore.h>
#include <sys/mman.h>

namespace {

constexpr size_t kSize = 300'000;

std::string name_of(const char* what) { return "/ckpt-" + std::to_string(getpid()) + "-" + what; }

char* make(const char* what, unsigned seed, int* keep = nullptr) {
  const int fd = must(shm_open(name_of(what).c_str(), O_RDWR | O_CREAT | O_EXCL, 0640), "shm_open");
  must(ftruncate(fd, kSize), "ftruncate");
  char* at = must_map(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), "mmap");
  fill(at + 4096, 200'000, seed);
  if (keep != nullptr) {
    *keep = fd;
  } else {
    close(fd);
  }
  return at;
}

/// The content, and that the name leads to this very memory.
void check(const char* what, char* at, unsigned seed) {
  require_zero(at, 4096, what);
  require_filled(at + 4096, 200'000, seed, what);
  require_zero(at + 204'096, kSize - 204'096, what);
  const int fd = must(shm_open(name_of(what).c_str(), O_RDWR, 0), what);
  struct stat st {};
  must(fstat(fd, &st), "fstat");
  REQUIRE(st.st_size == kSize && (st.st_mode & 07777) == 0640, "%s: size %ld, mode %o", what, static_cast<long>(st.st_size), st.st_mode);
  REQUIRE(pwrite(fd, "seen", 4, 0) == 4 && memcmp(at, "seen", 4) == 0, "%s: its name leads to other memory", what);
  close(fd);
  must(shm_unlink(name_of(what).c_str()), "shm_unlink");
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  int kept = -1;
  char* gone = make("gone", 1);
  char* changed = make("changed", 2);
  char* same = make("same", 3, &kept);
  must(lseek(kept, 54321, SEEK_SET), "lseek");
  sem_t* semaphore = sem_open(name_of("sem").c_str(), O_CREAT | O_EXCL, 0600, 3);
  REQUIRE(semaphore != SEM_FAILED, "sem_open: %s", strerror(errno));
  must(open(path("beside").c_str(), O_RDWR | O_CREAT, 0600), "open");
  const std::string pid = std::to_string(getpid());
  // For as long as the process is there nothing happens.
  const std::string between = "kill -0 " + pid + " 2>/dev/null && exit 0\n"
                              "cd /dev/shm && rm ckpt-" + pid + "-gone sem.ckpt-" + pid + "-sem && echo other > ckpt-" + pid + "-changed\n";
  write_file("between", between.data(), between.size());
  ready();
  wait_for_go();

  check("gone", gone, 1);
  check("changed", changed, 2);
  REQUIRE(lseek(kept, 0, SEEK_CUR) == 54321, "position %ld", static_cast<long>(lseek(kept, 0, SEEK_CUR)));
  check("same", same, 3);
  REQUIRE(memcmp(same, "seen", 4) == 0 && pread(kept, gone, 4, 0) == 4 && memcmp(gone, "seen", 4) == 0, "descriptor and mapping have parted");
  int value = -1;
  must(sem_getvalue(semaphore, &value), "sem_getvalue");
  REQUIRE(value == 3, "the semaphore is %d", value);
  sem_t* again = sem_open(name_of("sem").c_str(), 0);
  REQUIRE(again != SEM_FAILED, "sem_open: %s", strerror(errno));
  must(sem_post(again), "sem_post");
  must(sem_getvalue(semaphore, &value), "sem_getvalue");
  REQUIRE(value == 4, "the semaphore that its name leads to is another one");
  must(sem_unlink(name_of("sem").c_str()), "sem_unlink");
  return passed();
}
