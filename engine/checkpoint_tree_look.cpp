// TreeCapture before the stop: who belongs to the tree, what of it is refused, and what can be made ready.
#include <algorithm>

#include "engine/base/error.h"
#include "engine/checkpoint_checks.h"
#include "engine/checkpoint_tree.h"

namespace ckpt {
namespace {

/// Looks at a tree that changes; see TreeCapture::look.
constexpr int kLooks = 5;
}  // namespace

void TreeCapture::find_members() {
  while (members_.size() > 1) drop(*members_.back());
  ended_.clear();
  seen_ = {read_relations(members_.front()->proc_dir(), shared_.root)};
  for (size_t i = 0; i < members_.size(); ++i) {
    const pid_t parent = members_[i]->pid();
    for (const ChildOf& child : list_children(members_[i]->proc_dir())) {
      const auto known = [&](const auto& m) { return m->pid() == child.pid; };
      if (std::ranges::any_of(members_, known)) continue;
      turns_.take(child.pid, shared_.options.cancel);
      try {
        auto member = std::make_unique<ProcessCapture>(shared_, child.pid);
        const bool zombie = member->status().state == 'Z' || member->status().state == 'X';
        // The pid may be another's by now.
        if (member->status().ppid == parent && !zombie) {
          seen_.push_back(read_relations(member->proc_dir(), child.pid));
          seen_.back().parent = parent;
          seen_.back().parent_thread = child.thread;
          members_.push_back(std::move(member));
          continue;
        }
        if (zombie) ended_.insert(child.pid);
      } catch (const Error&) {
        // It has ended.
      }
      turns_.give_back(child.pid);
    }
  }
}

void TreeCapture::index_descriptors() {
  std::vector<std::vector<OpenFd>*> tables;
  for (const auto& member : members_) tables.push_back(&member->files());
  if (tables.size() > 1) find_shared_descriptions(tables);
  shared_.descriptors = {};
  for (const auto& member : members_) shared_.descriptors.add(member->pid(), member->files());
  shared_.descriptors.pids.insert(ended_.begin(), ended_.end());
  for (const auto& [pid, relations] : family_) shared_.descriptors.pids.insert(pid);
}

void TreeCapture::take_sharing(const std::vector<pid_t>& pids, bool run) {
  sharing_ = sharing_of(pids, run, shared_.refusals);
  for (const auto& member : members_) {
    const auto found = sharing_.find(member->pid());
    member->share(found == sharing_.end() ? Sharing{} : found->second);
  }
}

void TreeCapture::look_at_members() {
  shared_.refusals.clear();
  for_each_alive([this](ProcessCapture& member) { shared_.refusals.collect([&] { member.look(); }); });
  take_sharing(pids_of(members_), true);
  for (Relations& seen : seen_) {
    if (const auto found = sharing_.find(seen.pid); found != sharing_.end()) seen.shares = found->second;
  }
  shared_.refusals.collect([this] { refuse_family(seen_); });
  // Without the table of one, the ends that it has would seem to be outside.
  if (!std::ranges::all_of(members_, &ProcessCapture::looked_at)) return;
  index_descriptors();
  for_each_alive([](ProcessCapture& member) { member.refuse_files(); });
}

// Processes that run are not seen all at one instant: the other end of a pipe may be in a child that was born after the
// look at it. Refusals count when they come twice; where the tree never rests the stop will tell.
void TreeCapture::look() {
  std::string before;
  for (int round = 0; round < kLooks; ++round) {
    find_members();
    look_at_members();
    const std::string found = shared_.refusals.text();
    if (found.empty() || members_.size() == 1 || found == before) return;
    before = found;
  }
  never_rests_ = true;
  shared_.refusals.clear();
}

bool TreeCapture::can_be_stopped() const { return std::ranges::all_of(members_, &ProcessCapture::can_be_stopped); }

std::string_view TreeCapture::strategy_not_for(const ProcessCapture& member) const {
  const auto lesson = lessons_.without.find(member.pid());
  return lesson == lessons_.without.end() ? "" : std::string_view(lesson->second);
}

void TreeCapture::prepare_snapshots() {
  for_each_alive([this](ProcessCapture& member) {
    with_snapshot(member, [this](ProcessCapture& m) { m.prepare_snapshot(strategy_not_for(m)); });
  });
}

}  // namespace ckpt
