// The pages of resumed processes, brought in while they run.
//
//   auto fill = std::make_shared<LazyFill>(image, figures);
//   fill->add(space);        // each address space, empty, nothing runs yet
//   fill->start();           // faults are answered from here on
//   ...                      // the processes run
//   fill->wait(cancel);      // everything is there; or it goes on by itself
//
// A userfaultfd that is closed leaves zeros where pages were to come. So, should this process die in between, another one that
// shares its descriptors (process/death_guard.h) ends the processes that are filled before the last of them is closed.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "engine/memory/lazy_space.h"
#include "engine/process/death_guard.h"

namespace ckpt {

/// Of the processes of one resume. add() and start() by one thread, the others by any.
class LazyFill {
 public:
  LazyFill(std::shared_ptr<const ImageSource> image, LazyFigures& figures);
  /// Ends the processes that are not filled.
  ~LazyFill();
  LazyFill(const LazyFill&) = delete;
  LazyFill& operator=(const LazyFill&) = delete;

  /// A space for a process, which has made `uffd`.
  std::unique_ptr<LazySpace> make_space(pid_t pid, UniqueFd uffd) {
    return std::make_unique<LazySpace>(pid, std::move(uffd), image_, figures_);
  }
  void add(std::unique_ptr<LazySpace> space) { spaces_.push_back(std::move(space)); }
  /// Nothing where there is nothing to fill. Throws Error.
  void start();
  /// Started, and not complete.
  bool under_way() const { return under_way_; }
  uint64_t bytes_left() const;
  /// For tests: only what is asked for comes.
  void pause_background(bool pause) { paused_ = pause; }

 private:
  using Spaces = std::list<std::shared_ptr<LazySpace>>;
  struct Guard;

  void serve() noexcept;
  void serve_all();
  bool step_all();
  void wait_for_messages(bool soon);
  void fill_in_background() noexcept;
  Spaces spaces() const;
  void watch(pid_t pid);
  void look_for_children();
  void drop_done();
  void lose(const char* why) noexcept;

  const std::shared_ptr<const ImageSource> image_;
  LazyFigures& figures_;
  mutable std::mutex mutex_;       ///< guards what follows
  Spaces spaces_;
  std::string failure_;            // of the background
  // Of the serving thread, once it runs.
  std::vector<UniqueFd> pid_fds_;
  std::set<pid_t> known_;          // who is guarded, and children that do not matter
  std::unique_ptr<Guard> guard_;
  int unknown_ = 0;                // a futex: 1 while there is a child of whom the guard does not know
  std::atomic<bool> stop_ = false;
  std::atomic<bool> paused_ = false;
  std::atomic<bool> under_way_ = false;
  std::thread server_;
};

/// The fills under way. Thread-safe.
class LazySet {
 public:
  /// One for a resume of `image`. Whoever resumes calls end() where that fails.
  std::shared_ptr<LazyFill> begin(std::shared_ptr<const ImageSource> image);
  void end(const std::shared_ptr<LazyFill>& fill) noexcept;
  /// Waits until all are complete. Throws Error(EINTR) after `cancel`.
  void complete(const CancelFlag* cancel);
  /// Number of those under way, and what they have still to bring in.
  size_t size();
  uint64_t bytes_left();
  const LazyFigures& figures() const { return figures_; }

 private:
  std::list<std::shared_ptr<LazyFill>> under_way();

  LazyFigures figures_;
  std::mutex mutex_;   ///< guards fills_
  std::list<std::shared_ptr<LazyFill>> fills_;
};

}  // namespace ckpt
