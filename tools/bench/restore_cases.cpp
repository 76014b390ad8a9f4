// From an image to a running process.
#include <fmt/format.h>

#include "tools/bench/bench.h"
#include "tools/bench/floors.h"
#include "tools/bench/victim.h"

namespace ckpt::bench {

namespace {

void small(Context& ctx) {
  Victim victim(ctx.dir, kMiB, false);
  ctx.mount.ctl(fmt::format("{} name=small", victim.pid()));
  const std::string archive = ctx.dir + "/archive", drop = ctx.mount.path("restore/small");
  run({"cp", "-a", ctx.mount.path("images/small"), archive});
  std::vector<double> times;
  for (int round = 0; round < 3 * ctx.rounds(); ++round) {
    victim.end();
    times.push_back(seconds([&] {
      run({"cp", "-a", archive, drop});
      victim.wait_until_running();
    }));
  }
  const double floor = seconds([&] { run({"cp", "-a", archive, archive + ".copy"}); });
  run({"rm", "-r", archive, archive + ".copy"});
  ctx.mount.ctl("delete small");
  ctx.table.push_back(
      {"cp to running, 1 MiB", show_ms(median(times)), "cp to the disk " + show_ms(floor), "", "10 ms"});
}

void eager(Context& ctx) {
  const uint64_t size = ctx.size();
  Victim victim(ctx.dir, size, false);
  ctx.mount.ctl(fmt::format("{} name=eager", victim.pid()));
  std::vector<double> times, floors;
  for (int round = 0; round < ctx.rounds(); ++round) {
    victim.end();
    times.push_back(seconds([&] { ctx.mount.ctl("restore eager"); }));
    floors.push_back(touch_fresh(size));
  }
  victim.end();
  ctx.mount.ctl("delete eager");
  ctx.mount.ctl("gc now");
  ctx.table.push_back({fmt::format("eager resume, {}", show_size(size)), show_ms(median(times)),
                       "touching fresh memory " + show_ms(median(floors)),
                       fmt::format("{:.2f}", median(times) / median(floors)), "0.6"});
}

}  // namespace

std::vector<Case> restore_cases() { return {{"small-restore", small}, {"eager", eager}}; }

}  // namespace ckpt::bench
