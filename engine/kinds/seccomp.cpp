#include "engine/kinds/seccomp.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include <algorithm>

#include "engine/base/error.h"
#include "engine/kernel.h"
#include "engine/process/proc_status.h"

namespace ckpt {

namespace {

// struct seccomp_metadata of linux/ptrace.h, which does not go together with sys/ptrace.h.
struct Metadata {
  uint64_t index = 0;
  uint64_t flags = 0;
};

constexpr size_t kMaxFilters = 4096;             // more than MAX_INSNS_PER_PATH (kernel/seccomp.c) allows
constexpr const char* kObject = "seccomp-";

std::string name_of(Remote& thread) { return fmt::format("{}: thread {}", thread.pid(), thread.tid()); }

/// The program of filter `index`, the oldest being 0; nothing beyond the last.
std::optional<std::vector<sock_filter>> read_filter(Remote& thread, size_t index) {
  const auto get = [&](void* to) {
    return ::ptrace(PTRACE_SECCOMP_GET_FILTER, thread.tid(), index, to);
  };
  const long count = get(nullptr);
  if (count < 0 && errno == ENOENT) return std::nullopt;
  std::vector<sock_filter> program(count > 0 ? static_cast<size_t>(count) : 0);
  if (count < 0 || get(program.data()) != count) {
    if (errno == EMEDIUMTYPE) fail(EOPNOTSUPP, "{}: a seccomp filter that is no classic BPF cannot be checkpointed", name_of(thread));
    fail_errno("{}: reading its seccomp filters", name_of(thread));
  }
  return program;
}

uint64_t read_flags(Remote& thread, size_t index) {
  Metadata metadata{index, 0};
  if (::ptrace(PTRACE_SECCOMP_GET_METADATA, thread.tid(), sizeof metadata, &metadata) < 0) {
    fail_errno("{}: reading the flags of its seccomp filters", name_of(thread));
  }
  return metadata.flags;
}

/// Whether a program may return SECCOMP_RET_USER_NOTIF: the descriptor that its supervisor holds cannot be made again.
bool asks_supervisor(const std::vector<sock_filter>& program) {
  return std::ranges::any_of(program, [](const sock_filter& i) {
    const bool constant = i.code == (BPF_RET | BPF_K) || i.code == (BPF_LD | BPF_IMM);
    return constant && (i.k & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_USER_NOTIF;
  });
}

std::string capture_filter(const CaptureContext& ctx, const std::vector<sock_filter>& program, uint64_t flags) {
  Record out;
  if ((flags & SECCOMP_FILTER_FLAG_LOG) != 0) out.add("log", 1);
  for (const sock_filter& i : program) {
    out.add("instruction", fmt::format("{:#x} {:#x} {:#x} {:#x}", i.code, i.jt, i.jf, i.k));
  }
  const std::string text = out.text();
  const std::string name = kObject + digest_bytes(std::as_bytes(std::span(text))).hex().substr(0, 32);
  if (ctx.first(name)) ctx.image->put("objects/" + name, text);
  return name;
}

struct Filter {
  std::vector<sock_filter> program;
  uint64_t flags = 0;
};

Filter parse_filter(const RestoreContext& ctx, const std::string& name, const std::string& where) {
  if (!name.starts_with(kObject) || name.find('/') != std::string::npos) {
    fail(EINVAL, "{}: '{}' is not the name of a seccomp filter", where, escape(name));
  }
  const std::string path = "objects/" + name;
  const Record record = Record::parse(ctx.image->read(path, 1 << 20), ctx.image->describe() + "/" + path);
  Filter filter;
  if (record.get_u64_or("log", 0) != 0) filter.flags = SECCOMP_FILTER_FLAG_LOG;
  for (const std::string& text : record.all("instruction")) {
    const auto v = record.numbers(text, 4);
    if (v[0] > UINT16_MAX || v[1] > UINT8_MAX || v[2] > UINT8_MAX || v[3] > UINT32_MAX) {
      fail(EINVAL, "{}: '{}' is no instruction of BPF", record.where(), text);
    }
    filter.program.push_back({static_cast<uint16_t>(v[0]), static_cast<uint8_t>(v[1]), static_cast<uint8_t>(v[2]),
                              static_cast<uint32_t>(v[3])});
  }
  if (filter.program.empty() || filter.program.size() > BPF_MAXINSNS) {
    fail(EINVAL, "{}: {} instructions are no program", record.where(), filter.program.size());
  }
  return filter;
}

/// The names of a thread's filters, oldest first.
std::vector<std::string> parse_names(const Record& record) {
  auto words = split_words(record.find("seccomp").value_or(""));
  if (words.empty() || words == std::vector<std::string>{"strict"}) return {};
  if (words[0] != "filter" || words.size() < 2 || words.size() > kMaxFilters) {
    fail(EINVAL, "{}: seccomp is neither strict nor a list of filters", record.where());
  }
  words.erase(words.begin());
  return words;
}

/// How many filters at the begin of the main thread's list all threads have.
size_t count_common(const RestoreContext& ctx, const std::vector<std::string>& names) {
  size_t common = names.size();
  for (const ImageEntry& entry : ctx.image->below(ctx.prefix + "threads")) {
    if (common == 0) break;
    const std::vector<std::string> other = parse_names(Record::parse(ctx.image->read(entry.path), entry.path));
    const auto [end, unused] = std::mismatch(names.begin(), names.begin() + static_cast<ptrdiff_t>(common), other.begin(), other.end());
    common = static_cast<size_t>(end - names.begin());
  }
  return common;
}

/// Memory of the process for a program, which may be larger than the scratch memory.
class RemoteProgram {
 public:
  RemoteProgram(Remote& thread, std::span<const std::byte> bytes) : thread_(thread), at_(thread.scratch() + kHead) {
    if (bytes.size() + kHead > thread.scratch_size()) {
      size_ = bytes.size();
      at_.addr = static_cast<uint64_t>(thread.call("mmap", SYS_mmap, 0, size_, PROT_READ | PROT_WRITE,
                                                   MAP_PRIVATE | MAP_ANONYMOUS, ~uint64_t{0}, 0));
    }
    thread.write(at_, bytes);
  }
  RemotePtr at() const { return at_; }
  void drop() {
    if (size_ != 0) thread_.call("munmap", SYS_munmap, at_.addr, size_);
  }

 private:
  static constexpr size_t kHead = 64;  // of the scratch memory, for struct sock_fprog
  Remote& thread_;
  RemotePtr at_;
  size_t size_ = 0;
};

void install(Remote& thread, const Filter& filter, bool for_all, const std::string& where) {
  RemoteProgram program(thread, std::as_bytes(std::span(filter.program)));
  sock_fprog fprog{static_cast<unsigned short>(filter.program.size()), reinterpret_cast<sock_filter*>(program.at().addr)};
  const uint64_t flags = filter.flags | (for_all ? SECCOMP_FILTER_FLAG_TSYNC : 0);
  const long result = thread.syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, thread.put(fprog).addr);
  program.drop();
  if (result > 0) fail(EIO, "{}: thread {} cannot be put in sync with the others", where, result);
  if (result < 0) fail(static_cast<int>(-result), "{}: installing a seccomp filter: {}", where, errno_text(static_cast<int>(-result)));
}

size_t count_installed(Remote& thread) {
  const std::string text = read_file(fmt::format("/proc/{}/task/{}/status", thread.pid(), thread.tid()));
  return parse_u64(status_field(text, "Seccomp_filters")).value_or(0);
}

}  // namespace

void capture_seccomp(const CaptureContext& ctx, Remote& thread, std::string_view status, Record& out) {
  const std::string mode = status_field(status, "Seccomp");
  if (mode.empty() || mode == "0") return;
  if (mode == "1") {
    out.add("seccomp", "strict");
    return;
  }
  std::string names;
  for (size_t index = 0; index < kMaxFilters; ++index) {
    const auto program = read_filter(thread, index);
    if (!program) break;
    if (asks_supervisor(*program)) {
      fail(EOPNOTSUPP, "{}: a seccomp filter that asks a supervisor cannot be checkpointed", name_of(thread));
    }
    names += " " + capture_filter(ctx, *program, read_flags(thread, index));
  }
  out.add("seccomp", "filter" + names);
}

void restore_seccomp(const RestoreContext& ctx, Remote& thread, const Record& record) {
  if (!record.has("seccomp")) return;
  if (!kernel_has("PTRACE_O_SUSPEND_SECCOMP")) {
    fail(EPERM, "{}: a thread under seccomp can only be resumed with CAP_SYS_ADMIN, and by who is not under it himself", record.where());
  }
  const std::vector<std::string> names = parse_names(record);
  if (names.empty()) {
    thread.call("prctl(PR_SET_SECCOMP)", SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0);
    return;
  }
  const size_t common = thread.tid() == thread.pid() ? count_common(ctx, names) : 0;
  for (size_t i = count_installed(thread); i < names.size(); ++i) {
    install(thread, parse_filter(ctx, names[i], record.where()), i < common, record.where());
  }
}

}  // namespace ckpt
