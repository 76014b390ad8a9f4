// A process that executes another program between the choice of a snapshot and the stop.
#include <gtest/gtest.h>

#include "engine/memory/snapshot.h"
#include "engine/process/proc_status.h"
#include "engine/process/stop.h"
#include "tests/unit/check_registers.h"

namespace ckpt {
namespace {

using test::become_sleep;
using test::Child;
using test::eventually;
using test::Report;
using test::Shared;

class ExecBeforeTheStop : public testing::TestWithParam<const char*> {};

// What was opened in /proc before shows nothing of the new program: all of it, or an error after which the checkpoint is made
// again.
TEST_P(ExecBeforeTheStop, LeavesNothingOut) {
  Shared<Report> report;
  Child child([&] { return become_sleep(*report); });
  ASSERT_TRUE(eventually([&] { return report->ready == 1; }));
  SnapshotTarget target;
  target.pid = child.pid();
  const auto snapshot = make_snapshot(GetParam(), target);
  {
    StoppedProcess process(child.pid());
    process.stop();
    if (snapshot->wants_prepare_stop()) snapshot->prepare(parse_maps(process.maps(), "maps"), process.leader());
  }
  snapshot->arm(parse_maps(read_file(fmt::format("/proc/{}/maps", child.pid())), "maps"));
  report->finish = true;
  ASSERT_TRUE(eventually([&] { return read_status(child.pid()).name == "sleep"; }));
  StoppedProcess process(child.pid());
  process.stop();
  const std::vector<Vma> vmas = parse_maps(process.maps(), "maps");
  try {
    snapshot->fix(vmas, process.leader());
    const auto stack = std::ranges::find(vmas, "[stack]", &Vma::path);
    ASSERT_NE(stack, vmas.end());
    EXPECT_FALSE(snapshot->touched(*stack).empty());
  } catch (const Error& e) {
    EXPECT_EQ(e.err(), ESRCH) << e.what();
  }
}

INSTANTIATE_TEST_SUITE_P(, ExecBeforeTheStop, testing::Values("copy", "fork", "write-protect"), [](const auto& strategy) {
  std::string name = strategy.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace ckpt
