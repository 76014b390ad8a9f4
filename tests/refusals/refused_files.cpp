// Descriptors of files, devices, and objects of the kernel.
#include "refused.h"

#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <mqueue.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>

#include <filesystem>

namespace {

/// The words for a descriptor; none where the machine does not give one.
Words descriptor(long fd, const std::string& what) {
  return fd < 0 ? Words{} : Words{of_fd(static_cast<int>(fd), what)};
}

Words io_uring() {
  char parameters[120] = {};
  return descriptor(syscall(SYS_io_uring_setup, 4, parameters), "an io_uring instance");
}

Words userfaultfd() { return descriptor(syscall(SYS_userfaultfd, O_CLOEXEC), "a userfaultfd"); }

Words perf_event() {
  perf_event_attr attr{};
  attr.type = PERF_TYPE_SOFTWARE;
  attr.size = sizeof attr;
  attr.config = PERF_COUNT_SW_TASK_CLOCK;
  return descriptor(syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC), "a performance event");
}

Words bpf() {
  bpf_attr attr{};
  attr.map_type = BPF_MAP_TYPE_ARRAY;
  attr.key_size = attr.value_size = 4;
  attr.max_entries = 1;
  return descriptor(syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr), "a BPF object");
}

Words fanotify() { return descriptor(fanotify_init(FAN_CLASS_NOTIF, O_RDONLY), "a fanotify group"); }

Words landlock() {
  const uint64_t handled = 1;  // LANDLOCK_ACCESS_FS_EXECUTE
  return descriptor(syscall(444, &handled, sizeof handled, 0), "a Landlock rule set");
}

Words fs_context() { return descriptor(syscall(430, "tmpfs", 0), "a filesystem context"); }

Words namespace_fd() { return descriptor(open("/proc/self/ns/uts", O_RDONLY), "a namespace descriptor"); }

Words device() { return descriptor(open("/dev/fuse", O_RDWR), "the device /dev/fuse"); }

Words block_device() {
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/block", none)) {
    const std::string name = "/dev/" + entry.path().filename().string();
    const int fd = open(name.c_str(), O_RDONLY | O_NONBLOCK);
    if (fd >= 0) return descriptor(fd, "the block device " + name);
  }
  return {};
}

Words secret_memory_fd() { return descriptor(syscall(447, 0), "secret memory"); }

Words huge_memfd() {
  return descriptor(memfd_create("huge", MFD_HUGETLB), "memory in huge pages");
}

Words inotify_unread() {
  const int fd = must(inotify_init1(IN_NONBLOCK), "inotify_init1");
  must(inotify_add_watch(fd, directory.c_str(), IN_CREATE), "inotify_add_watch");
  make_file("event", 8, 1);
  return {of_fd(fd, "an inotify instance with events that have not been read")};
}

Words lease_breaking() {
  const int fd = must(open(make_file("leased", 8, 1).c_str(), O_RDONLY | O_CLOEXEC), "open");
  signal(SIGIO, SIG_IGN);
  must(fcntl(fd, F_SETLEASE, F_RDLCK), "F_SETLEASE");
  REQUIRE(open(path("leased").c_str(), O_WRONLY | O_NONBLOCK) < 0 && errno == EWOULDBLOCK, "the lease was not broken");
  return {of_fd(fd, "a lease that is being broken")};
}

Words directory_deleted() {
  const std::string name = path("gone");
  must(mkdir(name.c_str(), 0700), "mkdir");
  const int fd = must(open(name.c_str(), O_RDONLY | O_DIRECTORY), "open");
  must(rmdir(name.c_str()), "rmdir");
  return {of_fd(fd, "a deleted directory (" + name)};
}

Words path_without_name() {
  const std::string name = make_file("gone", 8, 1);
  const int fd = must(open(name.c_str(), O_PATH), "open");
  must(unlink(name.c_str()), "unlink");
  return {of_fd(fd, "an O_PATH descriptor of something without a name (" + name)};
}

Words directory_watched() {
  const int fd = must(open(directory.c_str(), O_RDONLY | O_DIRECTORY), "open");
  if (fcntl(fd, F_NOTIFY, DN_ATTRIB) != 0) return {};
  return {of_fd(fd, "a directory that is watched with F_NOTIFY (" + directory)};
}

/// A descriptor of a mount that is taken away under it.
Words on_lost_mount(int flags, const char* what) {
  const std::string name = path("mounted");
  must(mkdir(name.c_str(), 0700), "mkdir");
  if (mount("none", name.c_str(), "tmpfs", 0, nullptr) != 0) return {};
  const int fd = must(open(name.c_str(), flags), "open");
  must(umount2(name.c_str(), MNT_DETACH), "umount2");
  return {of_fd(fd, what + std::string(" on a mount that is in no place"))};
}

Words descriptor_unmounted() { return on_lost_mount(O_RDONLY | O_DIRECTORY, "a directory"); }
Words path_unmounted() { return on_lost_mount(O_PATH, "an O_PATH descriptor"); }

Words proc_of_another() {
  return {of_fd(must(open("/proc/1/stat", O_RDONLY), "open"), "a file of another process (/proc/1/stat)")};
}

Words proc_for_writing() {
  return {of_fd(must(open("/proc/self/oom_score_adj", O_WRONLY), "open"), "/proc/"), "opened for writing"};
}

Words epoll_closed() {
  const int epoll = must(epoll_create1(0), "epoll_create1"), event = must(eventfd(0, 0), "eventfd");
  epoll_event wanted{};
  must(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &wanted), "epoll_ctl");
  must(dup(event), "dup");
  close(event);
  return {of_fd(epoll, "an epoll instance that watches a file whose descriptor (" + std::to_string(event))};
}

mqd_t queue(bool unlinked) {
  const std::string name = "/ckptfs-refused-" + std::to_string(getpid());
  mq_attr attr{};
  attr.mq_maxmsg = 1;
  attr.mq_msgsize = 8;
  const mqd_t fd = must(mq_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600, &attr), "mq_open");
  if (unlinked) must(mq_unlink(name.c_str()), "mq_unlink");
  return fd;
}

Words queue_without_name() { return {of_fd(queue(true), "a message queue without a name")}; }

Words owner_outside() {
  int ends[2];
  must(pipe(ends), "pipe");
  must(fcntl(ends[0], F_SETOWN, outside()), "F_SETOWN");
  return {of_fd(ends[0]), "a descriptor whose signal owner"};
}

}  // namespace

const std::vector<RefusedState>& refused_files() {
  static const std::vector<RefusedState> states = {
      {"io_uring", io_uring},
      {"userfaultfd", userfaultfd},
      {"perf_event", perf_event},
      {"bpf", bpf},
      {"fanotify", fanotify},
      {"landlock", landlock},
      {"fs_context", fs_context},
      {"namespace_fd", namespace_fd},
      {"device", device},
      {"block_device", block_device},
      {"secret_memory_fd", secret_memory_fd},
      {"huge_memfd", huge_memfd},
      {"inotify_unread", inotify_unread},
      {"lease_breaking", lease_breaking},
      {"directory_deleted", directory_deleted},
      {"path_without_name", path_without_name},
      {"directory_watched", directory_watched},
      {"descriptor_unmounted", descriptor_unmounted},
      {"path_unmounted", path_unmounted},
      {"proc_of_another", proc_of_another},
      {"proc_for_writing", proc_for_writing},
      {"epoll_closed", epoll_closed},
      {"queue_without_name", queue_without_name},
      {"owner_outside", owner_outside},
  };
  return states;
}
