// What a checkpoint costs of a process that is followed, and has written little since the last one.
#include <fmt/format.h>
#include <sys/uio.h>

#include <algorithm>
#include <random>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/image/digest.h"
#include "engine/image/manifest.h"
#include "tools/bench/bench.h"
#include "tools/bench/victim.h"

namespace ckpt::bench {

namespace {

/// Writes to pages of the victim, each a word that no other has.
void write_pages(const Victim& victim, uint64_t address, uint64_t size, uint64_t count, std::mt19937_64& random) {
  for (uint64_t i = 0; i < count; ++i) {
    uint64_t value = random();
    const iovec from{&value, sizeof value};
    const iovec to{reinterpret_cast<void*>(address + random() % (size / kPageSize) * kPageSize), sizeof value};
    if (::process_vm_writev(victim.pid(), &from, 1, &to, 1, 0) != sizeof value) fail_errno("process_vm_writev");
  }
}

ManifestHeader header_of(const Context& ctx, const std::string& image) {
  const std::string path = ctx.mount.path(fmt::format("images/{}/manifest", image));
  return Manifest::parse(read_file(path), path).header;
}

/// One percent of the pages is written between two checkpoints of a process that is followed.
void measure_incremental(Context& ctx, uint64_t size, int rounds) {
  std::vector<double> full, next, part, stop;
  std::mt19937_64 random(11);
  for (int round = 0; round < rounds; ++round) {
    Victim victim(ctx.dir, size, false);
    full.push_back(seconds([&] { ctx.mount.ctl(fmt::format("{} name=full", victim.pid())); }));
    const auto all = static_cast<double>(header_of(ctx, "full").new_bytes.value());
    ctx.mount.ctl(fmt::format("{} track name=first", victim.pid()));
    for (int step = 0; step < 3; ++step) {
      write_pages(victim, victim.board().address, size, size / kPageSize / 100, random);
      next.push_back(seconds([&] { ctx.mount.ctl(fmt::format("{} name=next{}", victim.pid(), step)); }));
      const ManifestHeader header = header_of(ctx, fmt::format("next{}", step));
      stop.push_back(static_cast<double>(header.stop_ns) / 1e9);
      part.push_back(static_cast<double>(header.new_bytes.value()) / all);
    }
    for (const char* name : {"full", "first", "next0", "next1", "next2"}) ctx.mount.ctl(fmt::format("delete {}", name));
    ctx.mount.ctl("gc now");
  }
  ctx.table.push_back({fmt::format("1% of {} written since", show_size(size)), show_ms(median(next)),
                       "the full one " + show_ms(median(full)), fmt::format("{:.3f}", median(next) / median(full)), "0.06"});
  ctx.table.push_back({"its stop", show_ms(median(stop)), "the longest " + show_ms(*std::ranges::max_element(stop)), "", "4 ms"});
  ctx.table.push_back({"its new bytes", fmt::format("{:.2f}%", 100 * median(part)), "of the full one's", "", "1.2%"});
}

void incremental(Context& ctx) {
  measure_incremental(ctx, ctx.size(), ctx.rounds());
  if (ctx.large) measure_incremental(ctx, 4 * kGiB, 1);
}

}  // namespace

std::vector<Case> incremental_cases() { return {{"incremental", incremental}}; }

}  // namespace ckpt::bench
