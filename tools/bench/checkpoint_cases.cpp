// Stop time, time to durable, and what is saved on an unchanged process.
#include <fmt/format.h>
#include <sys/uio.h>

#include <atomic>
#include <random>
#include <thread>

#include "engine/base/error.h"
#include "engine/image/digest.h"
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

/// Writes to pages of the victim, each a word that no other has.
void write_pages(const Victim& victim, uint64_t address, uint64_t size, uint64_t count, std::mt19937_64& random) {
  for (uint64_t i = 0; i < count; ++i) {
    uint64_t value = random();
    const iovec from{&value, sizeof value};
    const iovec to{reinterpret_cast<void*>(address + random() % (size / kPageSize) * kPageSize), sizeof value};
    if (::process_vm_writev(victim.pid(), &from, 1, &to, 1, 0) != sizeof value) fail_errno("process_vm_writev");
  }
}

/// One percent of the pages is written between two checkpoints of a process that is followed.
void measure_incremental(Context& ctx, uint64_t size) {
  std::vector<double> full, next, part;
  std::mt19937_64 random(11);
  for (int round = 0; round < ctx.rounds(); ++round) {
    Victim victim(ctx.dir, size, false);
    const uint64_t none = ctx.mount.stat("unique_pages");
    full.push_back(seconds([&] { ctx.mount.ctl(fmt::format("{} name=full", victim.pid())); }));
    const uint64_t all = ctx.mount.stat("unique_pages") - none;
    ctx.mount.ctl(fmt::format("{} track name=first", victim.pid()));
    for (int step = 0; step < 3; ++step) {
      write_pages(victim, victim.board().address, size, size / kPageSize / 100, random);
      const uint64_t before = ctx.mount.stat("unique_pages");
      next.push_back(seconds([&] { ctx.mount.ctl(fmt::format("{} name=next{}", victim.pid(), step)); }));
      part.push_back(static_cast<double>(ctx.mount.stat("unique_pages") - before) / static_cast<double>(all));
    }
    for (const char* name : {"full", "first", "next0", "next1", "next2"}) ctx.mount.ctl(fmt::format("delete {}", name));
    ctx.mount.ctl("gc now");
  }
  ctx.table.push_back({fmt::format("1% of {} written since", show_size(size)), show_ms(median(next)),
                       "the full one " + show_ms(median(full)), fmt::format("{:.3f}", median(next) / median(full)), "0.06"});
  ctx.table.push_back({"its new pages", fmt::format("{:.2f}%", 100 * median(part)), "of the full one's", "", "1.2%"});
}

void incremental(Context& ctx) {
  measure_incremental(ctx, ctx.size());
  if (!ctx.quick) measure_incremental(ctx, 4 * kGiB);
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

std::vector<Case> checkpoint_cases() { return {{"stop", stops}, {"durable", durable}, {"incremental", incremental}, {"small", small}}; }

}  // namespace ckpt::bench
