#include "engine/resume_family.h"

#include <algorithm>
#include <map>
#include <set>

#include "engine/base/error.h"

namespace ckpt {

namespace {

using Kind = FamilyStep::Kind;

/// Whoever calls resume(), seen from the family: its session or group, that a process inherits.
constexpr pid_t kCallers = 0;

/// Whether all that `child` shares is what `maker` has.
bool has_all(const Relations& maker, const Relations& child) {
  return std::ranges::all_of(sharing_kinds(), [&](const SharingKind& kind) {
    const pid_t owner = child.shares.*kind.owner;
    return owner == 0 || owner == maker.pid || owner == maker.shares.*kind.owner;
  });
}

class FamilyPlanner {
 public:
  FamilyPlanner(const std::vector<Relations>& members, bool as_child, const std::string& where)
      : members_(members), as_child_(as_child), where_(where) {}

  std::vector<FamilyStep> plan() {
    take_members();
    choose_makers();
    visit(root().pid);
    if (made_ != nodes_.size()) fail(EINVAL, "{}: its processes are not one family", where_);
    arrange_groups();
    end_helpers();
    for (const Relations& member : members_) {
      if (!member.exit_status) continue;
      steps_.push_back({.kind = Kind::end_zombie, .pid = member.pid, .by = member.parent,
                        .exit_signal = member.exit_signal, .exit_status = *member.exit_status});
    }
    return std::move(steps_);
  }

 private:
  struct Node {
    Relations is;
    bool helper = false;
    /// The session that it must be in when it is made; -1 where any will do, since it leads its own.
    pid_t birth_session = -1;
    std::vector<pid_t> early;    // made before it leads its session
    std::vector<pid_t> late;
    std::vector<pid_t> siblings; // made by it as children of its parent
    bool leads() const { return is.session == is.pid; }
  };

  const Relations& root() const { return members_.front(); }
  bool is_root(pid_t pid) const { return pid == root().pid; }

  pid_t session_of(const Relations& member) const {
    if (member.session == root().session || member.session == 0) return as_child_ ? kCallers : root().pid;
    return member.session;
  }
  pid_t group_of(const Relations& member) const {
    if (root().group == root().pid) return member.group == 0 ? root().pid : member.group;
    if (member.group == root().group || member.group == 0) return as_child_ ? kCallers : root().pid;
    return member.group;
  }

  void take_members();
  void choose_makers();
  void require_birth(pid_t pid, pid_t child);
  pid_t maker_of_session(const Node& child);
  void check_sharing(const Relations& member) const;
  pid_t sibling_with_all(const Node& child);
  void visit(pid_t pid);
  void make(pid_t pid, pid_t by, bool sibling);
  void arrange_groups();
  void end_helpers();

  const std::vector<Relations>& members_;
  const bool as_child_;
  const std::string& where_;
  std::map<pid_t, Node> nodes_;
  std::vector<FamilyStep> steps_;
  std::vector<std::pair<pid_t, pid_t>> helpers_;  // and their parents
  size_t made_ = 0;
};

void FamilyPlanner::take_members() {
  for (const Relations& member : members_) {
    check_sharing(member);
    Node node{member, false, -1, {}, {}, {}};
    node.is.session = session_of(member);
    node.is.group = group_of(member);
    if (!is_root(member.pid)) {
      const auto parent = nodes_.find(member.parent);
      if (parent == nodes_.end() || parent->second.is.exit_status) {
        fail(EINVAL, "{}: process {} is a child of {}, which does not run in the image before it", where_, member.pid,
             member.parent);
      }
    } else if (member.exit_status) {
      fail(EINVAL, "{}: its root process is a zombie", where_);
    }
    if (!nodes_.emplace(member.pid, std::move(node)).second) {
      fail(EINVAL, "{}: process {} is there twice", where_, member.pid);
    }
  }
}

/// From the leaves up, so that what a child must be born into is known when its parent is looked at.
void FamilyPlanner::choose_makers() {
  for (auto member = members_.rbegin(); member != members_.rend(); ++member) {
    Node& node = nodes_.at(member->pid);
    if (!node.leads()) node.birth_session = node.is.session;
    if (!is_root(member->pid)) require_birth(member->parent, member->pid);
  }
}

void FamilyPlanner::require_birth(pid_t pid, pid_t child) {
  Node& parent = nodes_.at(pid);
  const Node& node = nodes_.at(child);
  const pid_t wanted = node.birth_session;
  const pid_t then = parent.is.session;
  if (!has_all(parent.is, node.is)) {
    nodes_.at(sibling_with_all(node)).siblings.push_back(child);
  } else if (wanted == -1 || wanted == then) {
    parent.late.push_back(child);
  } else if (parent.leads() && !is_root(pid) && (parent.birth_session == -1 || parent.birth_session == wanted)) {
    parent.birth_session = wanted;
    parent.early.push_back(child);
  } else {
    nodes_.at(maker_of_session(node)).siblings.push_back(child);
  }
}

void FamilyPlanner::check_sharing(const Relations& member) const {
  for (const SharingKind& kind : sharing_kinds()) {
    const pid_t owner = member.shares.*kind.owner;
    if (owner == 0) continue;
    const auto found = nodes_.find(owner);
    if (member.exit_status || found == nodes_.end() || found->second.is.exit_status ||
        found->second.is.shares.*kind.owner != 0) {
      fail(EINVAL, "{}: process {} has its {} in common with {}, which does not own it in the image before it", where_,
           member.pid, kind.what, owner);
    }
  }
  // clone(2): CLONE_SIGHAND is not to be had without CLONE_VM.
  if (member.shares.signal_actions != 0 && member.shares.memory == 0) {
    fail(EINVAL, "{}: process {} has its signal actions in common with {}, but not its memory", where_, member.pid,
         member.shares.signal_actions);
  }
}

/// Who makes a child that shares what its parent does not have: by clone(2) with CLONE_PARENT, which leaves it no exit signal
/// but that of its maker.
pid_t FamilyPlanner::sibling_with_all(const Node& child) {
  for (const Relations& other : members_) {
    if (other.pid == child.is.pid) break;
    const bool sibling = other.parent == child.is.parent && other.parent_thread == child.is.parent_thread;
    if (!sibling || other.exit_status || other.exit_signal != child.is.exit_signal || !has_all(other, child.is)) continue;
    const pid_t session = nodes_.at(other.pid).is.session;
    if (child.birth_session == -1 || child.birth_session == session) return other.pid;
  }
  for (const SharingKind& kind : sharing_kinds()) {
    if (const pid_t owner = child.is.shares.*kind.owner; owner != 0) {
      fail(EOPNOTSUPP, "{}: process {} has its {} in common with {}, and is a child of {}: this cannot be made again",
           where_, child.is.pid, kind.what, owner, child.is.parent);
    }
  }
  return 0;
}

/// Who makes a child of a session that its parent has never been in.
pid_t FamilyPlanner::maker_of_session(const Node& child) {
  const pid_t session = child.birth_session;
  const auto leader = nodes_.find(session);
  if (leader == nodes_.end()) {
    Node helper;
    helper.helper = true;
    helper.is.pid = helper.is.session = helper.is.group = session;
    helper.is.parent = helper.is.parent_thread = child.is.parent;
    helper.is.exit_signal = child.is.exit_signal;
    nodes_.emplace(session, helper);
    nodes_.at(child.is.parent).late.push_back(session);
  } else if (leader->second.is.parent != child.is.parent || leader->second.is.exit_signal != child.is.exit_signal ||
             !has_all(leader->second.is, child.is)) {
    fail(EOPNOTSUPP, "{}: process {} is in session {}, and a child of {}: this cannot be made again", where_,
         child.is.pid, session, child.is.parent);
  }
  return session;
}

void FamilyPlanner::make(pid_t pid, pid_t by, bool sibling) {
  const Node& node = nodes_.at(pid);
  FamilyStep step;
  step.pid = pid;
  step.by = by;
  step.thread = sibling ? by : node.is.parent_thread;
  step.sibling = sibling;
  step.helper = node.helper;
  step.exit_signal = node.is.exit_signal;
  step.clone_flags = node.is.shares.clone_flags();
  steps_.push_back(step);
  if (node.helper) helpers_.emplace_back(pid, node.is.parent);
}

void FamilyPlanner::visit(pid_t pid) {
  // By an explicit stack: a hostile image may be as deep as it has processes.
  struct Visit {
    pid_t pid;
    size_t next = 0;
  };
  std::vector<Visit> stack = {{pid}};
  while (!stack.empty()) {
    Visit& at = stack.back();
    const Node& node = nodes_.at(at.pid);
    if (at.next == 0) ++made_;
    if (at.next == node.early.size() && node.leads()) steps_.push_back({.kind = Kind::lead_session, .pid = at.pid});
    const size_t index = at.next++;
    const size_t own = node.early.size() + node.late.size();
    if (index >= own + node.siblings.size()) {
      stack.pop_back();
      continue;
    }
    const pid_t child = index < node.early.size() ? node.early[index]
                        : index < own             ? node.late[index - node.early.size()]
                                                  : node.siblings[index - own];
    make(child, at.pid, index >= own);
    stack.push_back({child});
  }
}

void FamilyPlanner::arrange_groups() {
  std::map<pid_t, pid_t> missing;  // group -> one that is to be in it
  for (const Relations& member : members_) {
    const Node& node = nodes_.at(member.pid);
    if (node.is.group != kCallers && !nodes_.contains(node.is.group)) missing.emplace(node.is.group, member.pid);
  }
  std::set<pid_t> groups;
  for (const auto& [pid, node] : nodes_) {
    if (!node.helper && node.is.group != kCallers) groups.insert(node.is.group);
  }
  for (const auto& [group, by] : missing) {
    Node helper;
    helper.helper = true;
    helper.is.pid = helper.is.group = group;
    helper.is.session = nodes_.at(by).is.session;
    helper.is.parent = by;
    helper.is.parent_thread = by;
    nodes_.emplace(group, helper);
    make(group, by, false);
  }
  for (const pid_t group : groups) {
    const Node& leader = nodes_.at(group);
    if (!leader.leads()) steps_.push_back({.kind = Kind::lead_group, .pid = group});
  }
  // A leader who has gone to another group goes when his own has others in it.
  for (const bool leaders : {false, true}) {
    for (const Relations& member : members_) {
      const Node& node = nodes_.at(member.pid);
      const pid_t group = node.is.group;
      if (group == kCallers || group == member.pid || groups.contains(member.pid) != leaders) continue;
      if (nodes_.at(group).is.session != node.is.session) {
        fail(EINVAL, "{}: process {} is in group {} of another session", where_, member.pid, group);
      }
      steps_.push_back({.kind = Kind::join_group, .pid = member.pid, .group = group});
    }
  }
}

void FamilyPlanner::end_helpers() {
  for (const auto& [pid, parent] : helpers_) {
    steps_.push_back({.kind = Kind::end_helper, .pid = pid, .by = parent, .helper = true});
  }
}

}  // namespace

std::vector<FamilyStep> plan_family(const std::vector<Relations>& members, bool as_child, const std::string& where) {
  return FamilyPlanner(members, as_child, where).plan();
}

}  // namespace ckpt
