// The image as files.
#include <fmt/format.h>

#include <filesystem>

#include "engine/base/error.h"
#include "tools/bench/bench.h"
#include "tools/bench/floors.h"
#include "tools/bench/victim.h"

namespace ckpt::bench {

namespace {

namespace fs = std::filesystem;

fs::path largest_segment(const std::string& image) {
  fs::path largest;
  uint64_t size = 0;
  for (const auto& entry : fs::directory_iterator(image + "/segments")) {
    if (entry.file_size() >= size) size = entry.file_size(), largest = entry.path();
  }
  if (largest.empty()) fail(ENOENT, "{}: no segment", image);
  return largest;
}

void files(Context& ctx) {
  Victim victim(ctx.dir, ctx.size(), false);
  ctx.mount.ctl(fmt::format("{} name=files", victim.pid()));
  const std::string image = ctx.mount.path("images/files");
  const std::string segment = largest_segment(image), copy = ctx.dir + "/segment", again = copy + ".again";
  const auto copy_to = [](const std::string& from, const std::string& to) {
    return seconds([&] { run({"cp", "--reflink=never", "--sparse=never", from, to}); });
  };
  const double out = copy_to(segment, copy);
  const double plain = copy_to(copy, again);
  const double warm = read_file_through(segment), cached = read_file_through(copy);
  const double inside = seconds([&] { run({"cp", "-r", image, ctx.mount.path("images/copied")}); });
  run({"rm", copy, again});
  ctx.mount.ctl("delete copied");
  ctx.mount.ctl("delete files");
  ctx.mount.ctl("gc now");
  const std::string size = show_size(ctx.size());
  ctx.table.push_back({"cp of a segment of " + size + " to the disk", show_ms(out),
                       "disk to disk " + show_ms(plain), fmt::format("{:.2f} of its speed", plain / out),
                       "0.5"});
  ctx.table.push_back({"reading it again", show_ms(warm), "a page-cached file " + show_ms(cached),
                       fmt::format("{:.2f} of its speed", cached / warm), "0.5"});
  ctx.table.push_back({"cp of an image of " + size + " inside the mount", show_ms(inside), "", "", "100 ms"});
}

}  // namespace

std::vector<Case> file_cases() { return {{"files", files}}; }

}  // namespace ckpt::bench
