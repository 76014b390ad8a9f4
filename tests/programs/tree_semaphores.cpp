// Semaphores: of System V with values, last operators, adjustments at the end of a process (SEM_UNDO), also such that two
// processes have in common, and a waiter; a set is gone before the resume. Of POSIX: one with a name, one that has lost it.
#include <fcntl.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/ipc.h>
#include <sys/sem.h>

#include "family.h"

namespace {

constexpr int kCount = 4;

int make_set(key_t key) {
  const int id = must(semget(key, kCount, IPC_CREAT | IPC_EXCL | 0640), "semget");
  unsigned short values[kCount] = {5, 0, 32767, 1};
  must(semctl(id, 0, SETALL, values), "SETALL");
  return id;
}

void operate(int id, int number, int value, int flags = IPC_NOWAIT) {
  sembuf operation = {static_cast<unsigned short>(number), static_cast<short>(value), static_cast<short>(flags)};
  must(semop(id, &operation, 1), "semop");
}

void operate_with_undo(int id, int number, int value) { operate(id, number, value, IPC_NOWAIT | SEM_UNDO); }

void require_values(int id, int a, int b, int c, int d) {
  unsigned short values[kCount];
  must(semctl(id, 0, GETALL, values), "GETALL");
  REQUIRE(values[0] == a && values[1] == b && values[2] == c && values[3] == d, "set %d has %d %d %d %d, not %d %d %d %d", id,
          values[0], values[1], values[2], values[3], a, b, c, d);
}

void require_last(int id, int number, pid_t pid) {
  const pid_t last = must(semctl(id, number, GETPID), "GETPID");
  REQUIRE(last == pid, "the last who operated on semaphore %d of set %d is %d, not %d", number, id, last, pid);
}

sem_t* open_posix(const std::string& name) {
  sem_t* const semaphore = sem_open(name.c_str(), O_CREAT | O_EXCL, 0600, 2);
  REQUIRE(semaphore != SEM_FAILED, "sem_open: %s", strerror(errno));
  return semaphore;
}

void require_posix(sem_t* semaphore, int value) {
  int now = -1;
  must(sem_getvalue(semaphore, &now), "sem_getvalue");
  REQUIRE(now == value, "a POSIX semaphore has %d, not %d", now, value);
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  Roll roll;
  const auto key = static_cast<key_t>(0x5ed00000 | (getpid() & 0xffff));
  const int named = make_set(key), lost = make_set(IPC_PRIVATE);
  const std::string name = "/ckpt-" + std::to_string(getpid()) + "-";
  sem_t* const with_name = open_posix(name + "a");
  sem_t* const without = open_posix(name + "b");
  must(sem_unlink((name + "b").c_str()), "sem_unlink");
  must(sem_wait(without), "sem_wait");
  const int sets[] = {named, lost};

  const pid_t lender = child([&] {
    for (const int id : sets) {
      operate_with_undo(id, 0, -2);
      operate_with_undo(id, 2, -30000);
    }
    roll.here();
    wait_in_place("the lender");
  });
  roll.wait_for(1);
  Roll others;
  const pid_t giver = child([&] {
    // A child with our adjustments: they are made when both have ended.
    const pid_t partner = static_cast<pid_t>(must(syscall(SYS_clone, CLONE_SYSVSEM | SIGCHLD, 0, 0, 0, 0), "clone"));
    if (partner == 0) {
      for (const int id : sets) {
        operate_with_undo(id, 0, 1);
        operate(id, 3, -1);
        operate(id, 3, 1);
      }
      others.here();
      wait_in_place("the partner");
      _exit(0);
    }
    others.here();
    wait_in_place("the giver");
    for (const int id : sets) require_last(id, 3, partner);
    join(partner);
    must(sem_post(with_name), "sem_post");
    wait_until([&] { return semctl(named, 3, GETVAL) == 0; }, "the first has looked");
  });
  const pid_t waiter = child([&] {
    others.here();
    operate(lost, 1, -3, 0);
    operate(named, 1, -1, 0);
    while (sem_wait(with_name) != 0) REQUIRE(errno == EINTR, "sem_wait: %s", strerror(errno));
  });
  others.wait_for(3);
  wait_until([&] { return semctl(lost, 1, GETNCNT) == 1; }, "one waits");
  const std::string pid = std::to_string(getpid());
  const std::string between = "[ -e /proc/" + pid + " ] || ipcrm -s " + std::to_string(lost) + "\n";
  write_file("between", between.data(), between.size());
  must(sem_wait(with_name), "sem_wait");
  must(sem_wait(with_name), "sem_wait");
  ready();
  wait_in_place("the first");

  require_posix(without, 1);
  semid_ds ds;
  must(semctl(named, 0, IPC_STAT, &ds), "IPC_STAT");
  REQUIRE(ds.sem_perm.__key == key && (ds.sem_perm.mode & 0777) == 0640, "key %x, mode %o", ds.sem_perm.__key, ds.sem_perm.mode);
  join(lender);  // +2, +30000
  wait_until([&] { return semctl(named, 0, GETVAL) == 6; }, "the partner's adjustment waits for the giver");
  for (const int id : sets) {
    require_values(id, 6, 0, 32767, 1);
    require_last(id, 2, lender);
  }
  operate(lost, 1, 3);
  operate(named, 1, 1);
  join(waiter);
  operate(named, 3, -1);
  join(giver);  // -1
  require_values(named, 5, 0, 32767, 0);
  require_values(lost, 5, 0, 32767, 1);
  require_last(named, 3, getpid());
  require_posix(with_name, 0);
  must(sem_unlink((name + "a").c_str()), "sem_unlink");
  for (const int id : sets) must(semctl(id, 0, IPC_RMID), "IPC_RMID");
  return passed();
}
