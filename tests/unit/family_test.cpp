// The order in which a family of processes is made.
#include "engine/resume_family.h"

#include <gtest/gtest.h>
#include <sched.h>

#include "engine/base/error.h"

namespace ckpt {
namespace {

using Kind = FamilyStep::Kind;

Relations process(pid_t pid, pid_t parent, pid_t session, pid_t group) {
  Relations r;
  r.pid = pid;
  r.parent = r.parent_thread = parent;
  r.session = session;
  r.group = group;
  return r;
}

Relations zombie(pid_t pid, pid_t parent, pid_t session, pid_t group, int status) {
  Relations r = process(pid, parent, session, group);
  r.exit_status = status;
  return r;
}

std::string text(const FamilyStep& s) {
  switch (s.kind) {
    case Kind::make:
      return fmt::format("{}{} makes {}{}", s.by, s.thread != s.by ? fmt::format("/{}", s.thread) : "", s.pid,
                         s.sibling ? " beside it" : "");
    case Kind::lead_session: return fmt::format("{} leads a session", s.pid);
    case Kind::lead_group: return fmt::format("{} leads a group", s.pid);
    case Kind::join_group: return fmt::format("{} joins {}", s.pid, s.group);
    case Kind::end_helper: return fmt::format("{} goes", s.pid);
    case Kind::end_zombie: return fmt::format("{} ends with {:#x}", s.pid, s.exit_status);
  }
  return "?";
}

std::string plan(const std::vector<Relations>& members, bool as_child = false) {
  std::string out;
  for (const FamilyStep& step : plan_family(members, as_child, "image")) out += (out.empty() ? "" : ", ") + text(step);
  return out;
}

int error_of(const std::vector<Relations>& members) {
  try {
    plan(members);
  } catch (const Error& e) {
    return e.err();
  }
  return 0;
}

TEST(Family, OneProcessLeadsASessionUnlessItIsSomebodysChild) {
  EXPECT_EQ(plan({process(10, 0, 5, 7)}), "10 leads a session");
  EXPECT_EQ(plan({process(10, 0, 5, 7)}, true), "");
  EXPECT_EQ(plan({process(10, 0, 5, 10)}, true), "10 leads a group");
  EXPECT_EQ(plan({process(10, 0, 10, 10)}, true), "10 leads a group");
}

TEST(Family, WhoeverWasInTheRootsSessionAndGroupFollowsIt) {
  const std::vector<Relations> members = {process(10, 0, 5, 7), process(11, 10, 5, 7), process(12, 11, 5, 12)};
  EXPECT_EQ(plan(members),
            "10 leads a session, 10 makes 11, 11 makes 12, 12 leads a group, 11 joins 10");
  EXPECT_EQ(plan(members, true), "10 makes 11, 11 makes 12, 12 leads a group");
}

TEST(Family, AChildOfTheFormerSessionIsMadeFirst) {
  EXPECT_EQ(plan({process(10, 0, 10, 10), process(11, 10, 11, 11), process(12, 11, 10, 10), process(13, 11, 11, 11)}),
            "10 leads a session, 10 makes 11, 11 makes 12, 11 leads a session, 11 makes 13, 12 joins 10, 13 joins 11");
}

TEST(Family, AnAdoptedChildIsMadeByTheLeaderOfItsSession) {
  // The leader goes on, is a zombie, has gone.
  EXPECT_EQ(plan({process(10, 0, 10, 10), process(11, 10, 11, 11), process(12, 10, 11, 11)}),
            "10 leads a session, 10 makes 11, 11 leads a session, 11 makes 12 beside it, 12 joins 11");
  EXPECT_EQ(plan({process(10, 0, 10, 10), process(12, 10, 11, 11), zombie(11, 10, 11, 11, 0)}),
            "10 leads a session, 10 makes 11, 11 leads a session, 11 makes 12 beside it, 12 joins 11, 11 ends with 0x0");
  EXPECT_EQ(plan({process(10, 0, 10, 10), process(12, 10, 11, 11)}),
            "10 leads a session, 10 makes 11, 11 leads a session, 11 makes 12 beside it, 12 joins 11, 11 goes");
}

TEST(Family, AGroupWithoutItsLeaderIsBegunByAHelper) {
  EXPECT_EQ(plan({process(10, 0, 10, 10), process(11, 10, 10, 9), process(12, 10, 10, 9)}),
            "10 leads a session, 10 makes 12, 10 makes 11, 11 makes 9, 9 leads a group, 11 joins 9, 12 joins 9, 9 goes");
}

TEST(Family, ALeaderWhoHasLeftGoesLast) {
  EXPECT_EQ(plan({process(10, 0, 10, 10), process(11, 10, 10, 12), process(12, 10, 10, 12), process(13, 10, 10, 11)}),
            "10 leads a session, 10 makes 13, 10 makes 12, 10 makes 11, 11 leads a group, 12 leads a group, 13 joins 11, "
            "11 joins 12");
}

/// A child that has the descriptor table of another process.
Relations sharing(pid_t pid, pid_t parent, pid_t owner, pid_t session = 10) {
  Relations r = process(pid, parent, session, 10);
  r.shares.descriptors = owner;
  return r;
}

TEST(Family, WhatIsSharedIsGivenByWhoHasIt) {
  EXPECT_EQ(plan({process(10, 0, 10, 10), sharing(11, 10, 10), sharing(12, 11, 10)}),
            "10 leads a session, 10 makes 11, 11 makes 12, 11 joins 10, 12 joins 10");
  EXPECT_EQ(plan_family({process(10, 0, 10, 10), sharing(11, 10, 10)}, false, "")[1].clone_flags, uint64_t{CLONE_FILES});
  // A sibling has it, not the parent.
  EXPECT_EQ(plan({process(10, 0, 10, 10), process(11, 10, 10, 10), sharing(12, 10, 11)}),
            "10 leads a session, 10 makes 11, 11 makes 12 beside it, 11 joins 10, 12 joins 10");
}

TEST(Family, WhatNobodyCanGiveIsRefused) {
  // The parent has left the table that it gave to its child; the sibling that has it is in another session.
  EXPECT_EQ(error_of({process(10, 0, 10, 10), process(11, 10, 10, 10), sharing(12, 11, 10)}), EOPNOTSUPP);
  EXPECT_EQ(error_of({process(10, 0, 10, 10), process(11, 10, 11, 11), sharing(12, 10, 11)}), EOPNOTSUPP);
  // The owner is not there, is a zombie, has it from another.
  EXPECT_EQ(error_of({process(10, 0, 10, 10), sharing(11, 10, 12)}), EINVAL);
  EXPECT_EQ(error_of({process(10, 0, 10, 10), zombie(11, 10, 10, 10, 0), sharing(12, 10, 11)}), EINVAL);
  EXPECT_EQ(error_of({process(10, 0, 10, 10), sharing(11, 10, 10), sharing(12, 11, 11)}), EINVAL);
  Relations actions = process(11, 10, 10, 10);
  actions.shares.signal_actions = 10;
  EXPECT_EQ(error_of({process(10, 0, 10, 10), actions}), EINVAL);
}

TEST(Family, ThreadsMakeTheirChildren) {
  Relations child = process(12, 10, 10, 10);
  child.parent_thread = 11;
  EXPECT_EQ(plan({process(10, 0, 10, 10), child}), "10 leads a session, 10/11 makes 12, 12 joins 10");
}

TEST(Family, WhatCannotBeIsRefused) {
  EXPECT_EQ(error_of({process(10, 0, 10, 10), process(12, 11, 10, 10)}), EINVAL);
  EXPECT_EQ(error_of({process(10, 0, 10, 10), process(11, 12, 10, 10), process(12, 11, 10, 10)}), EINVAL);
  EXPECT_EQ(error_of({process(10, 0, 10, 10), process(10, 10, 10, 10)}), EINVAL);
  EXPECT_EQ(error_of({zombie(10, 0, 10, 10, 0)}), EINVAL);
  EXPECT_EQ(error_of({process(10, 0, 10, 10), zombie(11, 10, 10, 10, 0), process(12, 11, 10, 10)}), EINVAL);
  // In a group of another session.
  EXPECT_EQ(error_of({process(10, 0, 10, 10), process(11, 10, 11, 11), process(12, 10, 10, 11)}), EINVAL);
  // Adopted by somebody above the leader's own parent.
  EXPECT_EQ(error_of({process(10, 0, 10, 10), process(11, 10, 10, 10), process(12, 11, 12, 12), process(13, 10, 12, 12)}),
            EOPNOTSUPP);
}

TEST(Family, IsMadeHoweverDeepItIs) {
  std::vector<Relations> members = {process(2, 0, 2, 2)};
  for (pid_t pid = 3; pid < 20'000; ++pid) members.push_back(process(pid, pid - 1, 2, 2));
  EXPECT_EQ(plan_family(members, false, "image").size(), 1 + 2 * (members.size() - 1));
}

}  // namespace
}  // namespace ckpt
