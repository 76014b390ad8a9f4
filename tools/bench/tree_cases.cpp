// Trees of processes that have come from one by fork: what each of them costs, and what they cost together.
#include <fmt/format.h>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/image/manifest.h"
#include "engine/process/procfs.h"
#include "tools/bench/bench.h"
#include "tools/bench/victim.h"

namespace ckpt::bench {

namespace {

ManifestHeader take(Context& ctx, pid_t pid, const std::string& name, double* time = nullptr) {
  const double taken = seconds([&] { ctx.mount.ctl(fmt::format("{} name={}", pid, name)); });
  if (time != nullptr) *time = taken;
  const std::string path = ctx.mount.path(fmt::format("images/{}/manifest", name));
  return Manifest::parse(read_file(path), path).header;
}

double as_seconds(uint64_t ns) { return static_cast<double>(ns) / 1e9; }

/// Each of the processes but the first by itself.
double sum_of_stops(Context& ctx, pid_t root) {
  double sum = 0;
  for (const ChildOf& child : list_children(open_proc(root).get())) {
    sum += as_seconds(take(ctx, child.pid, "one").stop_ns);
    ctx.mount.ctl("delete one");
  }
  return sum;
}

void grow(Context& ctx) {
  double first_taken = 0, first_resumed = 0;
  for (const unsigned processes : {10u, 100u, 1000u}) {
    if (ctx.quick && processes > 100) break;
    Victim victim(ctx.dir, kMiB, false, false, processes - 1);
    double taken = 0;
    const double stop = as_seconds(take(ctx, victim.pid(), "tree", &taken).stop_ns);
    if (processes == 100) {
      const double sum = sum_of_stops(ctx, victim.pid());
      ctx.table.push_back({"stop of a tree of 100", show_ms(stop), "the stops of 99 of them, one by one " + show_ms(sum),
                           fmt::format("{:.2f}", stop / sum), "1"});
    }
    victim.end();
    const double resumed = seconds([&] { ctx.mount.ctl("restore tree"); });
    victim.end();
    ctx.mount.ctl("delete tree");
    taken /= processes;
    const double each = resumed / processes;
    if (first_taken == 0) {
      first_taken = taken;
      first_resumed = each;
    }
    ctx.table.push_back({fmt::format("checkpoint of a tree of {}, each process", processes), show_ms(taken),
                         "of 10 " + show_ms(first_taken), fmt::format("{:.2f}", taken / first_taken), "1"});
    ctx.table.push_back({fmt::format("resume of a tree of {}, each process", processes), show_ms(each),
                         "of 10 " + show_ms(first_resumed), fmt::format("{:.2f}", each / first_resumed), "1"});
  }
}

/// Bytes of memory that a tree takes, what is in common counted once.
uint64_t memory_of(pid_t root) {
  uint64_t bytes = 0;
  std::vector<pid_t> pids = {root};
  for (const ChildOf& child : list_children(open_proc(root).get())) pids.push_back(child.pid);
  for (const pid_t pid : pids) {
    const std::string text = read_file(fmt::format("/proc/{}/smaps_rollup", pid));
    const size_t at = text.find("\nPss:");
    if (at != std::string::npos) bytes += std::strtoull(text.c_str() + at + 5, nullptr, 10) * 1024;
  }
  return bytes;
}

void workers(Context& ctx) {
  constexpr unsigned kWorkers = 10;
  const uint64_t size = ctx.size() / 16;
  uint64_t stored[2] = {}, memory[2] = {};
  for (const unsigned others : {0u, kWorkers - 1}) {
    Victim victim(ctx.dir, size, false, false, others);
    const size_t which = others == 0 ? 0 : 1;
    stored[which] = take(ctx, victim.pid(), "workers").new_bytes.value_or(0);
    victim.end();
    ctx.mount.ctl("restore workers");
    memory[which] = memory_of(victim.pid());
    victim.end();
    ctx.mount.ctl("delete workers");
    ctx.mount.ctl("gc now");
  }
  const auto ratio = [](const uint64_t (&of)[2]) {
    return fmt::format("{:.2f}", static_cast<double>(of[1]) / static_cast<double>(of[0]));
  };
  ctx.table.push_back({fmt::format("{} forked workers of {}, stored", kWorkers, show_size(size)), show_size(stored[1]),
                       "one of them " + show_size(stored[0]), ratio(stored), "1.3"});
  ctx.table.push_back({"the same, in memory after a resume", show_size(memory[1]), "one of them " + show_size(memory[0]),
                       ratio(memory), "1.3"});
}

}  // namespace

std::vector<Case> tree_cases() { return {{"tree", grow}, {"workers", workers}}; }

}  // namespace ckpt::bench
