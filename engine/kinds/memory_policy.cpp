#include "engine/kinds/memory_policy.h"

#include <sys/syscall.h>

#include <array>

#include "engine/base/error.h"
#include "engine/base/hex.h"

namespace ckpt {
namespace {

constexpr uint64_t kMaxNodes = 1024;  // 1 << CONFIG_NODES_SHIFT, the most that x86-64 kernels are built for
using Nodes = std::array<std::byte, kMaxNodes / 8>;

// ENOSYS: a kernel without NUMA.
constexpr Question kMode{"get_mempolicy", SYS_get_mempolicy, {Question::kAnswer}, sizeof(int32_t)};

}  // namespace

void ask_memory_policy(Questions& questions) { questions.ask(kMode); }

void capture_memory_policy(const CaptureContext&, Remote& thread, const Questions& answers, Record& out) {
  if (answers.result(kMode) < 0) return;
  const auto mode = answers.answer<int32_t>(kMode);
  if (mode == 0) return;
  Nodes nodes{};
  thread.write(thread.scratch(), nodes);
  thread.call("get_mempolicy", SYS_get_mempolicy, 0, thread.scratch().addr, kMaxNodes, 0, 0);
  thread.read(thread.scratch(), nodes);
  size_t used = nodes.size();
  while (used > 1 && nodes[used - 1] == std::byte{0}) --used;
  out.add("memory_policy", fmt::format("{} {}", mode, to_hex(std::span(nodes).first(used))));
}

void restore_memory_policy(const RestoreContext&, Remote& thread, const Record& record) {
  if (!record.has("memory_policy")) return;
  const auto words = split_words(record.get("memory_policy"));
  const auto mode = words.size() == 2 ? parse_u64(words[0]) : std::nullopt;
  const auto used = words.size() == 2 ? from_hex(words[1]) : std::nullopt;
  if (!mode || *mode > UINT32_MAX || !used || used->size() > sizeof(Nodes)) {
    fail(EINVAL, "{}: memory_policy is malformed", record.where());
  }
  Nodes nodes{};
  std::copy(used->begin(), used->end(), nodes.begin());
  thread.write(thread.scratch(), nodes);
  // EINVAL: none of those nodes is here. As with CPUs, it had better run on others than not at all.
  const long result = thread.syscall(SYS_set_mempolicy, *mode, thread.scratch().addr, kMaxNodes);
  if (result < 0 && result != -EINVAL && result != -ENOSYS) {
    fail(static_cast<int>(-result), "{}: memory_policy: {}", record.where(), errno_text(static_cast<int>(-result)));
  }
}

}  // namespace ckpt
