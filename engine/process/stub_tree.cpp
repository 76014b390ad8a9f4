#include "engine/process/stub_tree.h"

#include <linux/sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>

#include "engine/base/error.h"
#include "engine/process/death_guard.h"

namespace ckpt {

StubTree::StubTree(pid_t root, bool as_child) {
  members_.push_back({std::make_unique<Stub>(root, as_child), root, 0, 0, true});
  index_.emplace(root, 0);
}

StubTree::~StubTree() {
  // The parent is there to take note, since it dies after its children; the first one's end is its spawner's to see to.
  for (size_t i = members_.size(); i-- > 1;) {
    Member& member = members_[i];
    const bool alive = member.stub != nullptr && member.stub->alive();
    if (!member.is_there || (member.stub != nullptr && !alive)) continue;
    member.stub.reset();
    reap(member);
  }
}

Stub& StubTree::make(pid_t pid, const Maker& maker) {
  const Member& by = members_.at(index_.at(maker.by));
  const auto& threads = by.stub->threads();
  const auto thread = std::ranges::find_if(threads, [&](const auto& t) { return t->tid() == maker.thread; });
  if (thread == threads.end()) fail(EINVAL, "{}: its parent {} has no thread {}", pid, maker.by, maker.thread);
  const pid_t parent = maker.sibling ? by.parent : maker.by;
  // A sibling's exit signal is that of its maker (kernel_clone() in kernel/fork.c); another one is refused.
  auto stub = maker.sibling ? std::make_unique<Stub>(**thread, pid, maker.flags | CLONE_PARENT, 0)
                            : std::make_unique<Stub>(**thread, pid, maker.flags, maker.exit_signal);
  index_.emplace(pid, members_.size());
  members_.push_back({std::move(stub), pid, parent, maker.exit_signal, true});
  return *members_.back().stub;
}

void StubTree::end(pid_t pid, int wait_status, bool reaped) {
  Member& member = members_.at(index_.at(pid));
  member.stub->end(wait_status);
  member.stub.reset();
  if (reaped) {
    reap(member);
    member.is_there = false;
  }
  forget_signal(member);
}

void StubTree::reap(const Member& child) noexcept {
  const Member& parent = members_.at(index_.at(child.parent));
  if (parent.stub == nullptr || !parent.stub->alive()) return;
  try {
    parent.stub->leader().syscall(SYS_wait4, static_cast<uint64_t>(child.pid), 0, __WALL | WNOHANG, 0);
  } catch (const Error&) {
    // Somebody has killed the parent: its children are init's.
  }
}

// The kernel has told the parent, whose signals are all blocked; a signal that comes to be ignored is forgotten.
void StubTree::forget_signal(const Member& child) {
  if (child.exit_signal == 0) return;
  Remote& parent = at(child.parent).leader();
  for (const uint64_t handler : {reinterpret_cast<uint64_t>(SIG_IGN), reinterpret_cast<uint64_t>(SIG_DFL)}) {
    const uint64_t action[4] = {handler, 0, 0, 0};
    parent.write(parent.scratch(), std::as_bytes(std::span(action)));
    parent.call("rt_sigaction", SYS_rt_sigaction, static_cast<uint64_t>(child.exit_signal), parent.scratch().addr, 0, 8);
  }
}

std::vector<Stub*> StubTree::stubs() const {
  std::vector<Stub*> stubs;
  for (const Member& member : members_) {
    if (member.stub) stubs.push_back(member.stub.get());
  }
  return stubs;
}

void StubTree::let_go(const std::function<bool(pid_t)>& stopped, Traces& traces) {
  const std::vector<Stub*> stubs = this->stubs();
  if (stubs.size() == 1 && traces.calls().empty()) return stubs.front()->let_go(stopped(stubs.front()->pid()));
  // Those that we have let go no longer die with us.
  std::vector<DeathGuard::Call> calls;
  for (const Stub* stub : stubs) calls.push_back({SYS_pidfd_send_signal, {stub->pid_fd(), SIGKILL}});
  calls.insert(calls.end(), traces.calls().begin(), traces.calls().end());
  DeathGuard guard(calls);
  traces.disarm();
  for (size_t i = stubs.size(); i-- > 0;) stubs[i]->let_go(stopped(stubs[i]->pid()));
  guard.disarm();
}

}  // namespace ckpt
