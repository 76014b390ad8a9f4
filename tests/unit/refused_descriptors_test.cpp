// Kinds of descriptors that cannot be checkpointed: one sentence that names process, descriptor and kind.
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/landlock.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/rtnetlink.h>
#include <linux/userfaultfd.h>
#include <linux/vm_sockets.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "tests/unit/descriptor_fixture.h"

namespace ckpt {
namespace {

struct RefusedKind {
  const char* name;
  const char* phrase;
  int (*open)();
};

int open_io_uring() {
  io_uring_params parameters = {};
  return static_cast<int>(::syscall(SYS_io_uring_setup, 4, &parameters));
}

int open_perf() {
  perf_event_attr attributes = {};
  attributes.type = PERF_TYPE_SOFTWARE;
  attributes.size = sizeof attributes;
  attributes.config = PERF_COUNT_SW_CPU_CLOCK;
  attributes.exclude_kernel = 1;
  return static_cast<int>(::syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0));
}

int open_bpf() {
  bpf_attr attributes = {};
  attributes.map_type = BPF_MAP_TYPE_ARRAY;
  attributes.key_size = attributes.value_size = 4;
  attributes.max_entries = 1;
  return static_cast<int>(::syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes));
}

int open_landlock() {
  landlock_ruleset_attr attributes = {};
  attributes.handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE;
  return static_cast<int>(::syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0));
}

constexpr RefusedKind kKinds[] = {
    {"io_uring", "an io_uring instance", open_io_uring},
    {"userfaultfd", "a userfaultfd", [] { return static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)); }},
    {"perf", "a performance event", open_perf},
    {"bpf", "a BPF object", open_bpf},
    {"fanotify", "a fanotify group", [] { return fanotify_init(FAN_CLASS_NOTIF, O_RDONLY); }},
    {"landlock", "a Landlock rule set", open_landlock},
    {"namespace", "a namespace descriptor", [] { return open("/proc/self/ns/net", O_RDONLY); }},
    {"fuse", "the device /dev/fuse", [] { return open("/dev/fuse", O_RDWR); }},
    {"tun", "the device /dev/net/tun", [] { return open("/dev/net/tun", O_RDWR); }},
    {"packet", "a packet socket", [] { return socket(AF_PACKET, SOCK_RAW, 0); }},
    {"raw", "a raw socket", [] { return socket(AF_INET, SOCK_RAW, IPPROTO_ICMP); }},
    {"raw6", "a raw socket", [] { return socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6); }},
    {"vsock", "a vsock socket", [] { return socket(AF_VSOCK, SOCK_STREAM, 0); }},
};

class RefusedKinds : public DescriptorTest, public ::testing::WithParamInterface<RefusedKind> {};

TEST_P(RefusedKinds, ByName) {
  const UniqueFd fd(GetParam().open());
  if (!fd) GTEST_SKIP() << "not to be had here: " << strerror(errno);
  const std::string sentence = refusal({fd.get()});
  EXPECT_EQ(sentence.find(fmt::format("{}: fd {}: {}", getpid(), fd.get(), GetParam().phrase)), 0u) << sentence;
  EXPECT_TRUE(sentence.ends_with(" cannot be checkpointed")) << sentence;
}

INSTANTIATE_TEST_SUITE_P(, RefusedKinds, ::testing::ValuesIn(kKinds), [](const auto& kind) { return kind.param.name; });

}  // namespace
}  // namespace ckpt
