#include "engine/kinds/other.h"

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

std::string describe(const OpenFd& fd) {
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

  std::optional<std::string> refuse(const CaptureContext&, const OpenFd& fd) const override {
    return describe(fd) + " cannot be checkpointed";
  }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record&) const override {
    fail(EOPNOTSUPP, "{}: fd {}: {} cannot be checkpointed", ctx.pid, fd.fd, describe(fd));
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
