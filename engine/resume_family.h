// In which order, and by whom, the processes of an image are made, so that parents, sessions and process groups come
// out as they were. Pure: nothing is made here.
//
// A process gets its session from whoever made it, and can leave it only for one of its own (setsid(2)). So a leader's
// children that are in its former session are made before it becomes the leader. A child of another session that its
// parent never was in has been adopted (its own parent has died, prctl(2) PR_SET_CHILD_SUBREAPER): it is made by the
// leader of its session, as a sibling (CLONE_PARENT). For a session or group whose leader is gone a helper with that
// pid is made, and ended.
//
// What a process shares with another (kinds/sharing.h) its maker must have: its parent, or else a sibling that has it.
//
// The session of the root process, and its group, lead outside mostly: the resumed root leads a session of its own,
// or, as somebody's child, stays in that one's. Whoever was in the same session or group as the root follows it.
#pragma once

#include <string>
#include <vector>

#include "engine/kinds/family.h"

namespace ckpt {

struct FamilyStep {
  enum class Kind {
    make,          ///< process `pid`, by thread `thread` of `by`; `sibling`: as a child of the parent of `by`
    lead_session,  ///< setsid() in `pid`
    lead_group,    ///< setpgid(0, 0) in `pid`
    join_group,    ///< setpgid(0, group) in `pid`
    end_helper,    ///< `pid` ends, its parent takes note
    end_zombie,    ///< `pid` ends with `exit_status`
  };
  Kind kind = Kind::make;
  pid_t pid = 0;
  pid_t by = 0;
  pid_t thread = 0;
  bool sibling = false;
  bool helper = false;           ///< no process of the image
  int exit_signal = SIGCHLD;
  uint64_t clone_flags = 0;      ///< what it is to have in common with `by`
  pid_t group = 0;
  int exit_status = 0;
  bool operator==(const FamilyStep&) const = default;
};

/// The root process, which is there already, is the first of `members`; parents stand before their children.
/// `as_child`: it stays in the session and, unless it led one, the group that it is in. Throws Error: EINVAL for
/// relations that cannot be, EOPNOTSUPP for sessions, or things in common, that cannot be made again; `where` begins the sentence.
std::vector<FamilyStep> plan_family(const std::vector<Relations>& members, bool as_child, const std::string& where);

}  // namespace ckpt
