// System V message queues: order, types and content of messages, empty ones and large ones, a full queue whose sender waits, an
// empty one whose receiver waits, one that is gone before the resume.
#include <sys/ipc.h>
#include <sys/msg.h>

#include "family.h"

namespace {

constexpr size_t kLarge = 7000;

struct Letter {
  long type;
  char text[kLarge];
};

int make_queue(key_t key) { return must(msgget(key, IPC_CREAT | IPC_EXCL | 0620), "msgget"); }

void send(int id, long type, size_t size, uint64_t seed) {
  Letter letter;
  letter.type = type;
  fill(letter.text, size, seed);
  int result;
  do result = msgsnd(id, &letter, size, 0);
  while (result != 0 && errno == EINTR);
  must(result, "msgsnd");
}

void take(int id, long wanted, long type, size_t size, uint64_t seed) {
  Letter letter;
  ssize_t n;
  do n = msgrcv(id, &letter, sizeof letter.text, wanted, 0);
  while (n < 0 && errno == EINTR);
  must(n, "msgrcv");
  REQUIRE(letter.type == type && n == static_cast<ssize_t>(size), "a message of type %ld and %zd bytes, not %ld and %zu",
          letter.type, n, type, size);
  require_filled(letter.text, size, seed, "a message");
}

msqid_ds status(int id) {
  msqid_ds ds;
  must(msgctl(id, IPC_STAT, &ds), "IPC_STAT");
  return ds;
}

bool waits_in(pid_t pid, long number) {
  return read_text("/proc/" + std::to_string(pid) + "/syscall").rfind(std::to_string(number) + " ", 0) == 0;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  Roll roll;
  const auto key = static_cast<key_t>(0x5ee00000 | (getpid() & 0xffff));
  const int named = make_queue(key), lost = make_queue(IPC_PRIVATE), full = make_queue(IPC_PRIVATE), empty = make_queue(IPC_PRIVATE);
  msqid_ds small = status(full);
  small.msg_qbytes = 1000;
  must(msgctl(full, IPC_SET, &small), "IPC_SET");
  send(full, 1, 600, 1);
  send(full, 2, 400, 2);
  for (const int id : {named, lost}) {
    send(id, 7, 80, 3);
    send(id, 5, kLarge, 4);
    send(id, 7, 0, 0);
    send(id, 9, 16, 5);
  }
  send(empty, 3, 8, 6);
  const pid_t sender = child([&] {
    roll.here();
    send(full, 3, 48, 7);
  });
  const pid_t receiver = child([&] {
    take(empty, 0, 3, 8, 6);
    take(lost, 9, 9, 16, 5);
    roll.here();
    take(empty, 4, 4, 160, 8);
  });
  roll.wait_for(2);
  wait_until([&] { return waits_in(sender, SYS_msgsnd) && waits_in(receiver, SYS_msgrcv); }, "both wait");
  const std::string pid = std::to_string(getpid());
  const std::string between = "[ -e /proc/" + pid + " ] || ipcrm -q " + std::to_string(lost) + "\n";
  write_file("between", between.data(), between.size());
  ready();
  wait_in_place("the first");

  const msqid_ds ds = status(named);
  REQUIRE(ds.msg_perm.__key == key && (ds.msg_perm.mode & 0777) == 0620, "key %x, mode %o", ds.msg_perm.__key, ds.msg_perm.mode);
  REQUIRE(ds.msg_qnum == 4 && ds.msg_lspid == getpid(), "%lu messages, the last from %d", static_cast<unsigned long>(ds.msg_qnum),
          ds.msg_lspid);
  REQUIRE(status(lost).msg_lrpid == receiver && status(lost).msg_lspid == getpid(), "the other queue was received from by %d",
          status(lost).msg_lrpid);
  REQUIRE(status(full).msg_qbytes == 1000, "the full queue has room for %lu", static_cast<unsigned long>(status(full).msg_qbytes));
  take(named, 0, 7, 80, 3);
  take(named, 0, 5, kLarge, 4);
  take(named, 9, 9, 16, 5);
  take(named, 0, 7, 0, 0);
  take(lost, 0, 7, 80, 3);
  take(lost, 0, 5, kLarge, 4);
  take(lost, 0, 7, 0, 0);
  send(empty, 4, 160, 8);
  join(receiver);
  take(full, 0, 1, 600, 1);
  join(sender);
  take(full, 0, 2, 400, 2);
  take(full, 0, 3, 48, 7);
  for (const int id : {named, lost, full, empty}) {
    REQUIRE(status(id).msg_qnum == 0, "queue %d has %lu messages more", id, static_cast<unsigned long>(status(id).msg_qnum));
    must(msgctl(id, IPC_RMID, nullptr), "IPC_RMID");
  }
  return passed();
}
