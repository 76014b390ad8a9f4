// TreeCapture in the stop: one generation after the other comes to stand still.
#include <algorithm>

#include "engine/base/error.h"
#include "engine/checkpoint_checks.h"
#include "engine/checkpoint_tree.h"

namespace ckpt {

void TreeCapture::seize_all() {
  for_each_alive([](ProcessCapture& member) { member.seize(); });
}

ProcessCapture& TreeCapture::member(pid_t pid) {
  const auto found = std::ranges::find_if(members_, [pid](const auto& m) { return m->pid() == pid; });
  if (found != members_.end()) {
    if (!(*found)->ended()) return **found;
    drop(**found);  // another had the pid
  }
  if (!turns_.try_take(pid)) {
    lessons_.busy = pid;
    fail(EBUSY, "{}: another checkpoint is at work on it", pid);
  }
  members_.push_back(std::make_unique<ProcessCapture>(shared_, pid));
  return *members_.back();
}

/// A child in the stop of its parent; nothing where it has gone.
std::optional<TreeCapture::Kin> TreeCapture::meet(const ChildOf& child, pid_t parent) {
  Kin kin;
  try {
    const UniqueFd proc_dir = open_proc(child.pid);
    kin.relations = read_relations(proc_dir.get(), child.pid);
  } catch (const Error& e) {
    if (e.err() != ESRCH && e.err() != ENOENT) throw;
    return std::nullopt;
  }
  kin.relations.parent = parent;
  kin.relations.parent_thread = child.thread;
  if (kin.relations.exit_status) {
    if (read_status(child.pid).threads > 1) {
      fail(EOPNOTSUPP, "{}: its main thread has ended while others go on, which cannot be checkpointed", child.pid);
    }
  } else {
    kin.process = &member(child.pid);
  }
  return kin;
}

std::vector<TreeCapture::Kin> TreeCapture::children_of(std::span<ProcessCapture* const> parents) {
  std::vector<Kin> children;
  for (const ProcessCapture* parent : parents) {
    for (const ChildOf& child : list_children(parent->proc_dir())) {
      if (family_.contains(child.pid)) continue;
      if (auto kin = meet(child, parent->pid())) {
        family_.emplace(child.pid, kin->relations);
        children.push_back(*kin);
      }
    }
  }
  return children;
}

void TreeCapture::stop_generation(std::vector<Kin>& generation) {
  const auto ended = [this](Kin& kin) {
    // Its parent, who stands still, has a zombie now, or nothing.
    drop(*kin.process);
    family_.erase(kin.relations.pid);
    kin.process = nullptr;
    if (auto again = meet({kin.relations.parent_thread, kin.relations.pid}, kin.relations.parent);
        again && again->process == nullptr) {
      family_.emplace(kin.relations.pid, again->relations);
    }
  };
  const auto each = [&](auto&& work) {
    for (Kin& kin : generation) {
      if (kin.process == nullptr) continue;
      try {
        naming_process(kin.relations.pid, [&] { work(*kin.process); });
      } catch (const Error& e) {
        if (kin.relations.pid == shared_.root || !kin.process->ends()) throw;
        ended(kin);
      }
    }
  };
  each([](ProcessCapture& process) { process.seize(); });
  each([](ProcessCapture& process) { process.interrupt(); });
  each([](ProcessCapture& process) { process.wait_stop(); });
  each([this](ProcessCapture& process) {
    if (!process.looked_at()) {
      born_in_stop_ = true;
      process.look();
      if (shared_.options.dry_run && process.can_be_stopped()) return;
      shared_.refusals.raise();
    } else if (never_rests_) {
      process.refuse_again();
      if (!shared_.options.dry_run) shared_.refusals.raise();
    }
  });
}

void TreeCapture::stop() {
  stopped_at_ = Clock::now();
  Kin root{read_relations(members_.front()->proc_dir(), shared_.root), members_.front().get()};
  family_.emplace(shared_.root, root.relations);
  std::vector<Kin> generation = {root};
  for (;;) {
    stop_generation(generation);
    const size_t before = order_.size();
    for (const Kin& kin : generation) {
      if (kin.process != nullptr) order_.push_back(kin.process);
    }
    generation = children_of(std::span(order_).subspan(before));
    if (generation.empty()) generation = children_of(order_);
    if (generation.empty()) break;
  }
  find_kinship();
  // Whoever was seen before the stop and is nowhere now has ended.
  const std::set<const ProcessCapture*> stand_still(order_.begin(), order_.end());
  std::erase_if(members_, [&](const auto& m) { return !stand_still.contains(m.get()); });
}

/// What is certain now that all stand still. Only who is born can come to share anything.
void TreeCapture::find_kinship() {
  if (born_in_stop_ || never_rests_ || !sharing_.empty()) take_sharing(pids_of(order_), false);
  std::vector<Relations> members;
  for (const ProcessCapture* process : order_) {
    Relations& relations = family_.at(process->pid());
    if (const auto found = sharing_.find(process->pid()); found != sharing_.end()) relations.shares = found->second;
    members.push_back(relations);
  }
  for (const auto& [pid, relations] : family_) {
    if (relations.exit_status) members.push_back(relations);
  }
  shared_.refusals.collect([&] { refuse_family(members); });
  if (shared_.options.dry_run) return;
  for (ProcessCapture* process : order_) {
    // What takes long is done while a process runs: this one is copied.
    if (process->lacks_snapshot()) process->prepare_snapshot("fork");
  }
}

}  // namespace ckpt
