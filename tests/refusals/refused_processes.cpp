// What belongs to a process as a whole, or to its place among others.
#include "refused.h"

#include <asm/ldt.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <array>
#include <atomic>
#include <thread>

namespace {

Words traced() {
  const pid_t self = getpid();
  prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);  // Yama lets only ancestors trace
  const pid_t tracer = outside([self] { must(ptrace(PTRACE_SEIZE, self, nullptr, nullptr), "PTRACE_SEIZE"); });
  return {of_process("it is traced already, by process " + std::to_string(tracer))};
}

/// A page that is the same for this process and whoever is born of it.
volatile pid_t* common_page() {
  return reinterpret_cast<volatile pid_t*>(
      must_map(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), "mmap"));
}

Words vfork_waits() {
  static volatile pid_t* const born = common_page();
  const pid_t waits = child([] {
    pthread_t thread;
    pthread_create(&thread, nullptr, [](void*) -> void* {
      if (vfork() == 0) {
        // Only system calls: the memory is the parent's.
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        *born = getpid();
        for (;;) pause();
      }
      return nullptr;
    }, nullptr);
    wait_until([] { return *born != 0; }, "a child is born");
  });
  return {std::to_string(waits) + ": thread ", "waits in vfork(2)"};
}

Words keys() {
  const long key = syscall(SYS_add_key, "user", "ckptfs-refused", "x", 1, KEY_SPEC_PROCESS_KEYRING);
  return key < 0 ? Words{} : Words{of_process("thread "), "keys in a keyring of the process"};
}

Words seccomp_supervisor() {
  std::array<sock_filter, 1> filter = {{{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}}};
  const sock_fprog program = {filter.size(), filter.data()};
  must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS");
  const long fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
  if (fd < 0) return {};
  return {of_fd(static_cast<int>(fd), "a seccomp notification descriptor")};
}

Words core_cookie() {
  constexpr int kSchedCore = 62, kCreate = 1;  // PR_SCHED_CORE, PR_SCHED_CORE_CREATE
  if (prctl(kSchedCore, kCreate, 0, 0, 0) != 0) return {};
  return {of_process("thread "), "has a core scheduling cookie"};
}

Words directory_gone() {
  const std::string name = path("gone");
  must(mkdir(name.c_str(), 0700), "mkdir");
  must(chdir(name.c_str()), "chdir");
  must(rmdir(name.c_str()), "rmdir");
  return {of_process("its working directory " + name + " is deleted")};
}

/// Something for itself in a thread that then lives on.
Words in_thread(const std::function<bool()>& work, const std::string& what) {
  static std::atomic<int> tid{0};
  std::thread([&work] {
    tid = work() ? thread_id() : -1;
    for (;;) pause();
  }).detach();
  wait_until([] { return tid != 0; }, "a thread is apart");
  return tid < 0 ? Words{} : Words{of_process("thread " + std::to_string(tid)), what};
}

Words thread_namespace() {
  return in_thread([] { return unshare(CLONE_NEWUTS) == 0; }, "is in another UTS namespace than the main thread");
}
Words thread_directories() {
  return in_thread([] { return unshare(CLONE_FS) == 0; }, "has a working directory and umask of its own");
}
Words thread_descriptors() {
  return in_thread([] { return unshare(CLONE_FILES) == 0; }, "has a descriptor table of its own");
}

Words namespace_for_children() {
  if (unshare(CLONE_NEWPID) != 0) return {};
  return {of_process("children of thread "), "would be born in another pid namespace"};
}

Words directory_unmounted() {
  const std::string name = path("mounted");
  must(mkdir(name.c_str(), 0700), "mkdir");
  if (mount("none", name.c_str(), "tmpfs", 0, nullptr) != 0) return {};
  must(chdir(name.c_str()), "chdir");
  must(umount2(name.c_str(), MNT_DETACH), "umount2");
  return {of_process("its working directory / is on a mount that is in no place")};
}

Words descriptor_table() {
  user_desc segment{};
  segment.entry_number = 2;
  segment.limit = 0xfff;
  segment.seg_32bit = segment.useable = 1;
  if (syscall(SYS_modify_ldt, 1, &segment, sizeof segment) != 0) return {};
  return {of_process("it has a local descriptor table")};
}

Words calls_dispatched() {
  static char selector = 0;  // SYSCALL_DISPATCH_FILTER_ALLOW
  if (prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &selector) != 0) return {};
  // Before Linux 6.4 nobody else is told (PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG).
  uint64_t configuration[4];
  const pid_t self = getpid();
  const pid_t born = must(fork(), "fork");
  if (born == 0) _exit(ptrace(PTRACE_SEIZE, self, nullptr, nullptr) != 0 || ptrace(PTRACE_INTERRUPT, self, nullptr, nullptr) != 0 ||
                       waitpid(self, nullptr, __WALL) != self ||
                       ptrace(static_cast<__ptrace_request>(0x4211), self, sizeof configuration, configuration) != 0);
  int status = 0;
  while (waitpid(born, &status, 0) < 0 && errno == EINTR) {
  }
  return status != 0 ? Words{} : Words{of_process("thread "), "has its system calls dispatched to itself"};
}

/// A 32-bit program of one loop around pause(2): its headers and three instructions.
Words program_of_32_bits() {
  constexpr uint32_t kBase = 0x08048000, kCode = 0x54;
  std::string file("\x7f" "ELF\1\1\1\0\0\0\0\0\0\0\0\0", 16);
  const auto half = [&](uint16_t value) { file.append(reinterpret_cast<const char*>(&value), sizeof value); };
  const auto word = [&](uint32_t value) { file.append(reinterpret_cast<const char*>(&value), sizeof value); };
  half(2), half(3), word(1), word(kBase + kCode), word(0x34), word(0), word(0);     // executable, i386
  half(0x34), half(0x20), half(1), half(0), half(0), half(0);
  word(1), word(0), word(kBase), word(kBase), word(0x5d), word(0x5d), word(5), word(0x1000);
  file.append("\xb8\x1d\0\0\0\xcd\x80\xeb\xf7", 9);  // mov eax, 29; int 0x80; jmp back
  write_file("program", file.data(), file.size());
  const std::string name = path("program");
  must(chmod(name.c_str(), 0700), "chmod");
  const pid_t pid = must(fork(), "fork");
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execl(name.c_str(), name.c_str(), nullptr);
    _exit(1);
  }
  const std::string exe = "/proc/" + std::to_string(pid) + "/exe";
  char text[4096];
  wait_until([&] {
    const ssize_t n = readlink(exe.c_str(), text, sizeof text);
    return n <= 0 || std::string(text, static_cast<size_t>(n)) == name;
  }, "the child is another program");
  // ENOEXEC where the kernel runs none.
  if (readlink(exe.c_str(), text, sizeof text) <= 0) return {};
  return {std::to_string(pid) + ": a 32-bit program"};
}

/// In a child, so that the test can talk to this process; of a kind that only those born afterwards are in, in its child.
Words in_namespace(int flag, const char* kind, bool of_children = false) {
  volatile pid_t* const in_it = common_page();
  child([&] {
    if (unshare(flag) != 0) return;
    *in_it = getpid();
    if (!of_children) return;
    const pid_t born = must(fork(), "fork");
    if (born == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (;;) pause();
    }
    *in_it = born;
  });
  if (*in_it == 0) return {};
  return {std::to_string(*in_it) + ": it is in another " + kind + " namespace"};
}

Words user_namespace() { return in_namespace(CLONE_NEWUSER, "user"); }
Words pid_namespace() { return in_namespace(CLONE_NEWPID, "pid", true); }
Words mount_namespace() { return in_namespace(CLONE_NEWNS, "mount"); }
Words network_namespace() { return in_namespace(CLONE_NEWNET, "network"); }
Words ipc_namespace() { return in_namespace(CLONE_NEWIPC, "IPC"); }
Words uts_namespace() { return in_namespace(CLONE_NEWUTS, "UTS"); }
Words cgroup_namespace() { return in_namespace(CLONE_NEWCGROUP, "cgroup"); }
Words time_namespace() { return in_namespace(0x80, "time", true); }  // CLONE_NEWTIME

/// All of them are told, of all processes of the tree.
Words several() {
  Words words = {of_fd(must(open("/proc/1/stat", O_RDONLY), "open"), "a file of another process"),
                 of_fd(must(open("/dev/fuse", O_RDWR), "open"), "the device /dev/fuse")};
  for (const int round : {0, 1}) {
    const std::string name = path("gone" + std::to_string(round));
    words.push_back(std::to_string(child([&name] {
      must(mkdir(name.c_str(), 0700), "mkdir");
      must(chdir(name.c_str()), "chdir");
      must(rmdir(name.c_str()), "rmdir");
    })) + ": its working directory " + name);
  }
  return words;
}

}  // namespace

const std::vector<RefusedState>& refused_processes() {
  static const std::vector<RefusedState> states = {
      {"traced", traced},
      {"vfork_waits", vfork_waits},
      {"keys", keys},
      {"seccomp_supervisor", seccomp_supervisor},
      {"core_cookie", core_cookie},
      {"directory_gone", directory_gone},
      {"directory_unmounted", directory_unmounted},
      {"descriptor_table", descriptor_table},
      {"calls_dispatched", calls_dispatched},
      {"thread_namespace", thread_namespace},
      {"thread_directories", thread_directories},
      {"thread_descriptors", thread_descriptors},
      {"namespace_for_children", namespace_for_children},
      {"program_of_32_bits", program_of_32_bits},
      {"user_namespace", user_namespace},
      {"pid_namespace", pid_namespace},
      {"mount_namespace", mount_namespace},
      {"network_namespace", network_namespace},
      {"ipc_namespace", ipc_namespace},
      {"uts_namespace", uts_namespace},
      {"cgroup_namespace", cgroup_namespace},
      {"time_namespace", time_namespace},
      {"several", several},
  };
  return states;
}
