// System V shared memory: a removed segment, two with a key (one is gone before the resume), attachments of parent and child,
// to read only, protected, and in parts.
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>

#include "family.h"

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kSize = 8 * kPage - 100;

int make_segment(key_t key, int mode) { return must(shmget(key, kSize, IPC_CREAT | IPC_EXCL | mode), "shmget"); }

char* attach(int id, int flags = 0) { return must_map(shmat(id, nullptr, flags), "shmat"); }

shmid_ds status(int id) {
  shmid_ds ds;
  must(shmctl(id, IPC_STAT, &ds), "IPC_STAT");
  return ds;
}

void require_attached(int id, size_t times) {
  REQUIRE(status(id).shm_nattch == times, "segment %d is attached %lu times, not %zu", id,
          static_cast<unsigned long>(status(id).shm_nattch), times);
}

/// Whether a page can be written to, told by the kernel.
bool is_writable(const char* at) {
  const int zero = must(open("/dev/zero", O_RDONLY | O_CLOEXEC), "/dev/zero");
  const ssize_t n = read(zero, const_cast<char*>(at), 1);
  close(zero);
  return n == 1;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  Roll roll;
  shmid_ds unused;
  const auto key = static_cast<key_t>(0x5ec00000 | (getpid() & 0xffff)), lost_key = static_cast<key_t>(key ^ 0x01000000);
  const int removed = make_segment(IPC_PRIVATE, 0600), named = make_segment(key, 0640), lost = make_segment(lost_key, 0666);
  char* const common = attach(removed);
  must(shmctl(removed, IPC_RMID, nullptr), "IPC_RMID");
  fill(common, kSize, 1);
  char* const parts = attach(named);
  fill(parts, kSize, 2);
  // Pages 0 and 1, 3 to 5, the last of these to read only; 7.
  must(munmap(parts + 2 * kPage, kPage), "munmap");
  must(munmap(parts + 6 * kPage, kPage), "munmap");
  must(mprotect(parts + 5 * kPage, kPage, PROT_READ), "mprotect");
  char* const sparse = attach(lost);
  fill(sparse + 3 * kPage, kPage, 3);

  const pid_t other = child([&] {
    const char* const again = attach(named, SHM_RDONLY);
    roll.here();
    wait_in_place("the other");
    require_filled(again, kSize, 2, "the segment with a key");
    REQUIRE(mprotect(const_cast<char*>(again), kPage, PROT_READ | PROT_WRITE) == -1, "a read-only attachment can be written to");
    require_filled(common, kSize, 1, "the removed segment");
    memcpy(common, "from the other", 15);
    must(shmdt(again), "shmdt");
  });
  roll.wait_for(1);
  const std::string pid = std::to_string(getpid());
  const std::string between = "[ -e /proc/" + pid + " ] || ipcrm -m " + std::to_string(lost) + "\n";
  write_file("between", between.data(), between.size());
  ready();
  wait_in_place("the first");
  join(other);

  REQUIRE(strcmp(common, "from the other") == 0, "the removed segment is not shared");
  require_attached(removed, 1);
  REQUIRE((status(removed).shm_perm.mode & SHM_DEST) != 0, "the removed segment is there again");
  must(shmdt(common), "shmdt");
  REQUIRE(shmctl(removed, IPC_STAT, &unused) == -1, "the removed segment outlives its last attachment");

  require_filled(parts, 2 * kPage, 2, "its first pages");
  REQUIRE(is_writable(parts + 4 * kPage) && !is_writable(parts + 5 * kPage), "the protection is wrong");
  REQUIRE(!is_writable(parts + 2 * kPage) && !is_writable(parts + 6 * kPage), "what was unmapped is there");
  require_attached(named, 4);
  REQUIRE(shmget(key, 0, 0) == named, "the key leads to %d, not %d", shmget(key, 0, 0), named);
  REQUIRE((status(named).shm_perm.mode & 0777) == 0640, "its mode is %o", status(named).shm_perm.mode);
  must(shmdt(parts), "shmdt of all parts");
  require_attached(named, 0);

  require_zero(sparse, 3 * kPage, "what was never touched");
  require_filled(sparse + 3 * kPage, kPage, 3, "the segment that was lost");
  REQUIRE(shmget(lost_key, kSize, 0) == lost, "the other key leads to %d, not %d", shmget(lost_key, kSize, 0), lost);
  require_attached(lost, 1);
  must(shmctl(named, IPC_RMID, nullptr), "IPC_RMID");
  must(shmctl(lost, IPC_RMID, nullptr), "IPC_RMID");
  return passed();
}
