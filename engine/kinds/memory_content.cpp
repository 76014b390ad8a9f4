#include "engine/kinds/memory_content.h"

#include <algorithm>
#include <charconv>
#include <memory>

#include "engine/base/error.h"

namespace ckpt {

namespace {

// What closures of `later` may hold in memory, of all objects together: copying at 10 GB/s stops the process for a
// tenth of the time that hashing and storing would take, but the daemon's memory is bounded.
constexpr uint64_t kLaterBudget = 64 << 20;

struct Run {
  uint64_t start = 0, end = 0;
};

std::string run_path(const std::string& dir, const Run& run) {
  return fmt::format("{}/{:x}-{:x}", dir, run.start, run.end);
}

/// Page-aligned runs of data, ascending, apart from each other; the last one ends where the file ends.
std::vector<Run> find_runs(int file, uint64_t size, const std::string& where) {
  std::vector<Run> runs;
  uint64_t at = 0;
  // The descriptor may share its description, and so its position, with the process.
  const off_t position = lseek(file, 0, SEEK_CUR);
  while (at < size) {
    const off_t data = lseek(file, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    if (data < 0) fail_errno("{}: SEEK_DATA", where);
    const off_t hole = lseek(file, data, SEEK_HOLE);
    if (hole < 0) fail_errno("{}: SEEK_HOLE", where);
    Run run{static_cast<uint64_t>(data) / kPageSize * kPageSize,
            std::min((static_cast<uint64_t>(hole) + kPageSize - 1) / kPageSize * kPageSize, size)};
    at = static_cast<uint64_t>(hole);
    if (run.start >= size || at <= static_cast<uint64_t>(data)) break;
    if (!runs.empty() && run.start <= runs.back().end) {
      runs.back().end = std::max(run.end, runs.back().end);
    } else {
      runs.push_back(run);
    }
  }
  lseek(file, position, SEEK_SET);
  return runs;
}

void copy_run(ImageSink& image, int file, const Run& run, const std::string& dir, const std::string& where) {
  const uint64_t size = run.end - run.start;
  const auto sink = image.create(run_path(dir, run), size);
  std::vector<std::byte> block(std::min<uint64_t>(size, kBlockSize));
  for (uint64_t done = 0; done < size; done += block.size()) {
    const std::span part(block.data(), std::min<uint64_t>(block.size(), size - done));
    pread_all(file, part, run.start + done, where);
    sink->put_block(done / kBlockSize, part);
  }
}

struct HeldRun {
  Run run;
  std::vector<std::byte> content;
};

void put_held(ImageSink& image, const HeldRun& held, const std::string& dir) {
  const auto sink = image.create(run_path(dir, held.run), held.content.size());
  for (size_t done = 0; done < held.content.size(); done += kBlockSize) {
    sink->put_block(done / kBlockSize,
                    std::span(held.content).subspan(done, std::min(kBlockSize, held.content.size() - done)));
  }
}

/// As many of the runs as the budget takes, from the first on, are read now and stored later. Returns how many.
size_t hold_runs(const CaptureContext& ctx, int file, const std::vector<Run>& runs, const std::string& dir,
                 const std::string& where) {
  if (ctx.later_bytes == nullptr) return 0;
  auto held = std::make_shared<std::vector<HeldRun>>();
  for (const Run& run : runs) {
    const uint64_t size = run.end - run.start;
    if (size > kLaterBudget - std::min(kLaterBudget, *ctx.later_bytes)) break;
    held->push_back({run, std::vector<std::byte>(size)});
    pread_all(file, held->back().content, run.start, where);
    *ctx.later_bytes += size;
  }
  const size_t count = held->size();
  ctx.later->push_back([held, dir, image = ctx.image] {
    for (const HeldRun& run : *held) put_held(*image, run, dir);
    held->clear();
  });
  return count;
}

Run parse_run(std::string_view name, uint64_t file_size, const std::string& where) {
  Run run;
  const char* end = name.data() + name.size();
  const auto [dash, err1] = std::from_chars(name.data(), end, run.start, 16);
  const bool has_dash = err1 == std::errc{} && dash != end && *dash == '-';
  const auto [last, err2] = std::from_chars(has_dash ? dash + 1 : end, end, run.end, 16);
  if (!has_dash || err2 != std::errc{} || last != end || run.end <= run.start || run.end > file_size) {
    fail(EINVAL, "{}: is not a range START-END within {} bytes", where, file_size);
  }
  return run;
}

}  // namespace

void capture_content(const CaptureContext& ctx, UniqueFd file, uint64_t size, bool constant, const std::string& dir,
                     const std::string& where) {
  const std::vector<Run> runs = find_runs(file.get(), size, where);
  if (runs.empty()) return;
  if (constant && ctx.later != nullptr) {
    ctx.later->push_back([shared = std::make_shared<UniqueFd>(std::move(file)), runs, dir, where, image = ctx.image] {
      for (const Run& run : runs) copy_run(*image, shared->get(), run, dir, where);
    });
    return;
  }
  const size_t held = ctx.later != nullptr ? hold_runs(ctx, file.get(), runs, dir, where) : 0;
  for (size_t i = held; i < runs.size(); ++i) copy_run(*ctx.image, file.get(), runs[i], dir, where);
}

void restore_content(const RestoreContext& ctx, int file, uint64_t size, const std::string& dir) {
  struct Part {
    Run run;
    std::string path;
  };
  std::vector<Part> parts;
  for (const ImageEntry& entry : ctx.image->below(dir)) {
    const std::string where = ctx.image->describe() + "/" + entry.path;
    if (entry.type != EntryType::file) fail(EINVAL, "{}: is not a regular file", where);
    const Run run = parse_run(std::string_view(entry.path).substr(dir.size() + 1), size, where);
    if (entry.size != run.end - run.start) fail(EINVAL, "{}: has {} bytes", where, entry.size);
    parts.push_back({run, entry.path});
  }
  std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.run.start < b.run.start; });
  for (size_t i = 1; i < parts.size(); ++i) {
    if (parts[i].run.start < parts[i - 1].run.end) {
      fail(EINVAL, "{}/{}: overlaps {}", ctx.image->describe(), parts[i].path, parts[i - 1].path);
    }
  }
  for (const Part& part : parts) {
    ctx.image->visit(part.path, 0, part.run.end - part.run.start, [&](uint64_t at, std::span<const std::byte> piece) {
      if (!is_zero(piece)) pwrite_all(file, piece, part.run.start + at, part.path);
    });
  }
}

}  // namespace ckpt
