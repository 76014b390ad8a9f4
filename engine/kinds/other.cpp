#include "engine/kinds/other.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>

#include "engine/base/error.h"

namespace ckpt {

namespace {

struct Phrase {
  const char* target;  // begin of the link text
  const char* phrase;
};

constexpr std::array kPhrases = {
    Phrase{"anon_inode:[io_uring]", "an io_uring instance"},
    Phrase{"anon_inode:[userfaultfd]", "a userfaultfd"},
    Phrase{"anon_inode:[perf_event]", "a performance event"},
    Phrase{"anon_inode:[fanotify]", "a fanotify group"},
    Phrase{"anon_inode:[landlock-ruleset]", "a Landlock rule set"},
    Phrase{"anon_inode:seccomp notify", "a seccomp notification descriptor"},
    Phrase{"anon_inode:[fscontext]", "a filesystem context of fsopen"},
    Phrase{"anon_inode:bpf", "a BPF object"},
    Phrase{"anon_inode:bpf_link", "a BPF link"},
    Phrase{"anon_inode:btf", "a BPF type description"},
    Phrase{"anon_inode:kvm", "a KVM object"},
    Phrase{"anon_inode:sync_file", "a sync file"},
    Phrase{"/dmabuf:", "a DMA buffer"},
    Phrase{"anon_inode:dmabuf", "a DMA buffer"},
    Phrase{"/secretmem", "secret memory"},
    Phrase{"mnt:[", "a namespace descriptor"},
    Phrase{"net:[", "a namespace descriptor"},
    Phrase{"pid:[", "a namespace descriptor"},
    Phrase{"user:[", "a namespace descriptor"},
    Phrase{"uts:[", "a namespace descriptor"},
    Phrase{"ipc:[", "a namespace descriptor"},
    Phrase{"cgroup:[", "a namespace descriptor"},
    Phrase{"time:[", "a namespace descriptor"},
};

int socket_option(int fd, int option) {
  int value = -1;
  socklen_t size = sizeof value;
  return getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : -1;
}

std::string socket_phrase(int domain, int type) {
  switch (domain) {
    case AF_UNIX: return "a unix socket";
    case AF_NETLINK: return "a netlink socket";
    case AF_PACKET: return "a packet socket";
    case AF_VSOCK: return "a vsock socket";
    case AF_INET:
    case AF_INET6: return type == SOCK_STREAM ? "a TCP socket" : type == SOCK_DGRAM ? "a UDP socket" : "a raw socket";
    default: return fmt::format("a socket of the address family {}", domain);
  }
}

std::string describe_socket(const CaptureContext& ctx, const OpenFd& fd) {
  const UniqueFd mine = ctx.take(fd.fd);
  return fmt::format("{} ({})", socket_phrase(socket_option(mine.get(), SO_DOMAIN), socket_option(mine.get(), SO_TYPE)),
                     fd.target);
}

std::string describe(const CaptureContext& ctx, const OpenFd& fd) {
  if (S_ISSOCK(fd.st.st_mode)) return describe_socket(ctx, fd);
  if (S_ISCHR(fd.st.st_mode)) return fmt::format("the device {}", fd.target);
  if (S_ISBLK(fd.st.st_mode)) return fmt::format("the block device {}", fd.target);
  for (const Phrase& p : kPhrases) {
    if (fd.target.starts_with(p.target)) return fmt::format("{} ({})", p.phrase, fd.target);
  }
  return fmt::format("'{}'", fd.target);
}

class OtherKind : public DescriptorKind {
 public:
  const char* name() const override { return "other"; }
  bool matches(const OpenFd&) const override { return true; }

  std::optional<std::string> refuse(const CaptureContext& ctx, const OpenFd& fd) const override {
    return describe(ctx, fd) + " cannot be checkpointed";
  }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record&) const override {
    fail(EOPNOTSUPP, "{}: fd {}: {} cannot be checkpointed", ctx.pid, fd.fd, describe(ctx, fd));
  }

  UniqueFd restore(const RestoreContext&, const Record& record) const override {
    fail(EOPNOTSUPP, "{}: the type 'other' cannot be resumed", record.where());
  }
};

}  // namespace

const DescriptorKind& other_kind() {
  static const OtherKind kind;
  return kind;
}

}  // namespace ckpt
