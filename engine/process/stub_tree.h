// The stubs of a process and its descendants, as they are being made: each a child of whom it will be a child of.
//
//   StubTree tree(1234, false);
//   tree.at(1234).add_thread(1235);
//   tree.make(1240, {.by = 1234, .thread = 1235});   // clone3(2) by that thread
//   tree.end(1240, 3 << 8, false);                   // a zombie now, until 1234 waits for it
//   ...                                              // anything thrown: all killed and reaped, the youngest first
//   for (Stub* stub : tree.stubs()) stub->make_ready(...);
//   tree.let_go(...);
//
// As with Stub, everything is called by one thread, and everything dies with it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "engine/process/stub.h"
#include "engine/process/traces.h"

namespace ckpt {

class StubTree {
 public:
  /// Makes the first process. Errors as of Stub.
  StubTree(pid_t root, bool as_child);
  ~StubTree();
  StubTree(const StubTree&) = delete;
  StubTree& operator=(const StubTree&) = delete;

  struct Maker {
    pid_t by = 0;
    pid_t thread = 0;            ///< of `by`
    bool sibling = false;        ///< the new one is a child of the parent of `by`
    int exit_signal = 0;
    uint64_t flags = 0;          ///< of clone3(2): what it has in common with `by`
  };
  /// Makes one more. Errors as of Stub; EINVAL where `by` has no such thread.
  Stub& make(pid_t pid, const Maker& maker);
  /// It ends, with a status as wait(2) tells it. `reaped`: its parent waits for it, so that nothing is left. No signal of it
  /// stays pending in the parent.
  void end(pid_t pid, int wait_status, bool reaped);

  Stub& root() { return *members_.front().stub; }
  /// One that has been made and has not ended.
  Stub& at(pid_t pid) { return *members_.at(index_.at(pid)).stub; }
  /// All of these, parents before their children.
  std::vector<Stub*> stubs() const;

  /// All that make_ready() has been called for. From here on nothing can fail, and should we die in the middle all of it
  /// goes, with the traces. `stopped` tells which of them to leave stopped.
  void let_go(const std::function<bool(pid_t)>& stopped, Traces& traces);

 private:
  struct Member {
    std::unique_ptr<Stub> stub;  // none where it has ended
    pid_t pid = 0;
    pid_t parent = 0;            // 0 for the root
    int exit_signal = 0;
    bool is_there = true;        // running or a zombie
  };
  void reap(const Member& child) noexcept;
  void forget_signal(const Member& child);

  std::vector<Member> members_;
  std::map<pid_t, size_t> index_;
};

}  // namespace ckpt
