// Processes that have memory, descriptors, directories or signal actions in common, and are no threads of each other: each
// alone, all of it over two generations, with a thread, and with a sibling instead of the parent (CLONE_PARENT).
#include <linux/kcmp.h>
#include <sched.h>
#include <sys/mman.h>

#include "family.h"

namespace {

// Seen by those who share our memory.
std::atomic<int> here{0}, stage{0}, seen{0};
std::atomic<bool> thread_ends{false};
std::atomic<pid_t> grandchild{0};

/// Who shares our memory has our errno too: no call of the library in there.
long bare_call(long nr, long a = 0, long b = 0, long c = 0, long d = 0) {
  long result;
  register long r10 __asm__("r10") = d;
  __asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
  return result;
}

void bare_wait_for_stage(int wanted) {
  const timespec moment = {0, 2'000'000};
  while (stage < wanted) bare_call(SYS_nanosleep, reinterpret_cast<long>(&moment));
}

pid_t clone_on_stack(int flags, int (*body)(void*)) {
  constexpr size_t kSize = 64 << 10;
  char* stack = must_map(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "a stack");
  return must(clone(body, stack + kSize, flags, nullptr), "clone");
}

/// As fork(2), but with what `flags` say.
template <typename Body>
pid_t fork_with(unsigned long flags, Body&& body) {
  const pid_t pid = static_cast<pid_t>(must(syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0), "clone"));
  if (pid != 0) return pid;
  body();
  _exit(0);
}

/// Has our memory and nothing else.
int share_memory(void*) {
  bare_call(SYS_chdir, reinterpret_cast<long>("/"));
  bare_call(SYS_close_range, 0, 2, 0);
  ++here;
  bare_wait_for_stage(1);
  char directory[16] = {};
  bare_call(SYS_getcwd, reinterpret_cast<long>(directory), sizeof directory);
  const bool has_descriptors = bare_call(SYS_fcntl, 0, F_GETFD) >= 0;
  if (directory[0] == '/' && directory[1] == '\0' && !has_descriptors) ++seen;
  bare_call(SYS_exit_group, 0);
  return 0;
}

int second_thread(void*) {
  ++here;
  bare_wait_for_stage(1);
  ++seen;
  thread_ends = true;
  bare_call(SYS_exit);
  return 0;
}

void new_handler(int) {}

/// Has our memory and signal actions, and a thread.
int share_actions(void*) {
  alignas(16) static char stack[16384];
  clone(second_thread, stack + sizeof stack,
        CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, nullptr);
  ++here;
  bare_wait_for_stage(1);
  while (!thread_ends) bare_call(SYS_sched_yield);
  struct {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)();
    uint64_t mask;
  } action = {new_handler, 0, nullptr, 0};
  if (bare_call(SYS_rt_sigaction, SIGUSR2, reinterpret_cast<long>(&action), 0, 8) == 0) ++seen;
  bare_call(SYS_exit_group, 0);
  return 0;
}

constexpr int kAll = CLONE_VM | CLONE_FILES | CLONE_FS | CLONE_SIGHAND;

int share_all_below(void*) {
  ++here;
  bare_wait_for_stage(1);
  ++seen;
  bare_call(SYS_exit_group, 0);
  return 0;
}

int share_all(void*) {
  alignas(16) static char stack[16384];
  grandchild = clone(share_all_below, stack + sizeof stack, kAll | SIGCHLD, nullptr);
  ++here;
  int status = -1;
  while (bare_call(SYS_wait4, grandchild, reinterpret_cast<long>(&status), 0, 0) == -EINTR) {
  }
  if (status == 0) ++seen;
  bare_call(SYS_exit_group, 0);
  return 0;
}

/// Who has what in common with whom.
std::string kinship(const std::vector<pid_t>& pids) {
  std::string all;
  for (const int type : {KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND}) {
    for (const pid_t a : pids) {
      for (const pid_t b : pids) all += must(syscall(SYS_kcmp, a, b, type, 0, 0), "kcmp") == 0 ? '1' : '0';
    }
    all += '\n';
  }
  return all;
}

/// Until the first has looked at us all.
void wait_in_sight(const char* who) {
  wait_in_place(who);
  wait_until([] { return access(path("looked").c_str(), F_OK) == 0; }, "the first has looked");
}

pid_t take_pid(int from) {
  pid_t pid = 0;
  REQUIRE(read(from, &pid, sizeof pid) == sizeof pid, "reading a pid: %s", strerror(errno));
  return pid;
}

void tell(int to, int number) { REQUIRE(write(to, &number, sizeof number) == sizeof number, "a pipe: %s", strerror(errno)); }

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const std::string below = path("below");
  must(mkdir(below.c_str(), 0755), "mkdir");
  must(chdir(directory.c_str()), "chdir");
  signal(SIGUSR1, SIG_IGN);
  int told[2], siblings[2];
  must(pipe(told), "pipe");
  must(pipe(siblings), "pipe");
  Roll roll;

  const pid_t with_files = fork_with(CLONE_FILES, [&] {
    roll.here_but_open();
    wait_in_sight("the one with our descriptors");
    tell(told[1], must(open(below.c_str(), O_RDONLY | O_DIRECTORY), "open"));
  });
  const pid_t with_directories = fork_with(CLONE_FS, [&] {
    roll.here();
    wait_in_sight("the one with our directories");
    wait_until([&] { return link_text("/proc/self/cwd") == below; }, "our working directory is its own");
    REQUIRE(umask(022) == 037, "the umask is not shared");
  });
  // Two siblings with one table of descriptors, which is not ours, and a third with nothing.
  const pid_t elder = child([&] {
    const pid_t younger = fork_with(CLONE_FILES | CLONE_PARENT, [&] {
      roll.here_but_open();
      wait_in_sight("the younger sibling");
      wait_until([] { return fcntl(500, F_GETFD) >= 0; }, "a sibling's descriptor is its own");
    });
    tell(siblings[1], younger);
    tell(siblings[1], fork_with(CLONE_PARENT, [&] {
      roll.here();
      wait_in_sight("the third sibling");
      REQUIRE(fcntl(500, F_GETFD) < 0, "it shares descriptors");
    }));
    roll.here_but_open();
    wait_in_sight("the elder sibling");
    must(dup2(told[0], 500), "dup2");
  });
  const pid_t younger = take_pid(siblings[0]), third = take_pid(siblings[0]);
  const pid_t with_memory = clone_on_stack(CLONE_VM | SIGCHLD, share_memory);
  const pid_t with_actions = clone_on_stack(CLONE_VM | CLONE_SIGHAND | SIGCHLD, share_actions);
  const pid_t with_all = clone_on_stack(kAll | SIGCHLD, share_all);
  wait_until([] { return here == 5; }, "all are there");
  roll.wait_for(5);
  const std::vector<pid_t> pids = {getpid(), with_files, with_directories, elder, younger, third, with_memory,
                                   with_actions, with_all, grandchild};
  const std::string before = kinship(pids);
  ready();
  wait_in_place("the first");

  const std::string after = kinship(pids);
  REQUIRE(after == before, "what is in common has changed from\n%sto\n%s", before.c_str(), after.c_str());
  write_file("looked", "", 0);
  umask(037);
  must(chdir(below.c_str()), "chdir");
  stage = 1;
  const int opened = take_pid(told[0]);
  REQUIRE(link_text("/proc/self/fd/" + std::to_string(opened)) == below, "descriptor %d is not ours", opened);
  for (const pid_t pid : {with_files, with_directories, elder, younger, third, with_memory, with_actions, with_all}) join(pid);
  REQUIRE(seen == 5, "%d of 5 have seen what they should", seen.load());
  struct sigaction action = {};
  must(sigaction(SIGUSR2, nullptr, &action), "sigaction");
  REQUIRE(action.sa_handler == new_handler, "signal actions are not shared");
  must(sigaction(SIGUSR1, nullptr, &action), "sigaction");
  REQUIRE(action.sa_handler == SIG_IGN, "SIGUSR1 is not ignored");
  return passed();
}
