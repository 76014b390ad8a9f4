// Stop time, time to durable, and what is saved on an unchanged process.
#include <fmt/format.h>

#include <atomic>
#include <thread>

#include "tools/bench/bench.h"
#include "tools/bench/floors.h"
#include "tools/bench/victim.h"

namespace ckpt::bench {

namespace {

using namespace std::chrono_literals;

double gap_of(Victim& victim) { return static_cast<double>(victim.board().largest_gap_ns.exchange(0)) / 1e9; }

/// The largest gap in a time as long as the checkpoint took, with no checkpoint, but another CPU as busy as by one: what
/// the scheduler does, and a virtual machine that is held still when it has used its share.
double undisturbed_gap(Victim& victim, double time) {
  std::atomic<bool> over = false;
  std::thread other([&] {
    while (!over.load(std::memory_order_relaxed)) {
    }
  });
  gap_of(victim);
  std::this_thread::sleep_for(std::chrono::duration<double>(time));
  const double gap = gap_of(victim);
  over = true;
  other.join();
  return gap;
}

void measure_stop(Context& ctx, uint64_t size, bool huge, const char* goal) {
  std::vector<double> gaps, quiet;
  for (int round = 0; round < ctx.rounds(); ++round) {
    Victim victim(ctx.dir, size, true, huge);
    undisturbed_gap(victim, 0.3);  // settled
    gap_of(victim);
    const double time = seconds([&] { ctx.mount.ctl(fmt::format("{} name=stop", victim.pid())); });
    std::this_thread::sleep_for(2ms);  // the round that was under way ends
    gaps.push_back(gap_of(victim));
    quiet.push_back(undisturbed_gap(victim, time));
    ctx.mount.ctl("delete stop");
  }
  ctx.mount.ctl("gc now");
  ctx.table.push_back({fmt::format("stop, {} of {} pages", show_size(size), huge ? "huge" : "4 KiB"),
                       show_ms(median(gaps)), "undisturbed " + show_ms(median(quiet)), "", goal});
}

void stops(Context& ctx) {
  measure_stop(ctx, kMiB, false, "1.5 ms");
  measure_stop(ctx, 64 * kMiB, false, "2 ms");
  if (ctx.quick) return;
  measure_stop(ctx, kGiB, false, "3 ms");
  measure_stop(ctx, kGiB, true, "3 ms");
  measure_stop(ctx, 4 * kGiB, false, "8 ms");
  measure_stop(ctx, 4 * kGiB, true, "8 ms");
}

void durable(Context& ctx) {
  const uint64_t size = ctx.size();
  std::vector<double> times, floors, again, hash;
  uint64_t new_pages = 0;
  for (int round = 0; round < ctx.rounds(); ++round) {
    Victim victim(ctx.dir, size, false);
    const std::string file = ctx.dir + "/plain";
    floors.push_back(write_and_sync(file, size));
    run({"rm", file});
    times.push_back(seconds([&] { ctx.mount.ctl(fmt::format("{} name=first", victim.pid())); }));
    const uint64_t pages = ctx.mount.stat("unique_pages");
    again.push_back(seconds([&] { ctx.mount.ctl(fmt::format("{} name=second", victim.pid())); }));
    new_pages = ctx.mount.stat("unique_pages") - pages;
    hash.push_back(read_and_hash(victim.pid(), victim.board().address, size));
    ctx.mount.ctl("delete first");
    ctx.mount.ctl("delete second");
    ctx.mount.ctl("gc now");
  }
  ctx.table.push_back({fmt::format("echo to durable, {} unique", show_size(size)), show_ms(median(times)),
                       "write and fsync of a plain file " + show_ms(median(floors)),
                       fmt::format("{:.2f}", median(times) / median(floors)), "1.6"});
  ctx.table.push_back({fmt::format("again, unchanged ({} new pages)", new_pages), show_ms(median(again)),
                       "read and hash, two threads " + show_ms(median(hash)),
                       fmt::format("{:.2f}", median(again) / median(hash)), "1.5"});
}

void small(Context& ctx) {
  Victim victim(ctx.dir, kMiB, false);
  std::vector<double> times;
  for (int round = 0; round < 3 * ctx.rounds(); ++round) {
    times.push_back(seconds([&] { ctx.mount.ctl(fmt::format("{} name=small", victim.pid())); }));
    ctx.mount.ctl("delete small");
  }
  const double floor = write_and_sync(ctx.dir + "/plain", kMiB);
  ctx.table.push_back(
      {"echo to durable, 1 MiB", show_ms(median(times)), "write and fsync " + show_ms(floor), "", "10 ms"});
}

}  // namespace

std::vector<Case> checkpoint_cases() { return {{"stop", stops}, {"durable", durable}, {"small", small}}; }

}  // namespace ckpt::bench
