// ckpt check: the kernel's features, an image against its manifest, or the store's pages against their
// digests.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "engine/base/error.h"
#include "engine/kernel.h"
#include "tools/ckpt/commands.h"
#include "tools/ckpt/ctl.h"
#include "tools/ckpt/progress.h"

namespace ckpt::tool {

namespace {

struct CheckOptions {
  std::vector<std::string> images;
  bool kernel = false;
  bool full = false;
};

std::string dump(const nlohmann::json& json) {
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

int check_kernel(const Session& session) {
  auto list = nlohmann::json::array();
  for (const KernelFeature& f : kernel_features()) {
    list.push_back({{"name", f.name},
                    {"available", f.available},
                    {"since", f.since},
                    {"used_for", f.used_for},
                    {"instead", f.instead}});
    if (session.json) continue;
    fmt::print("{:<3}  {:<30}  {:<6}  {}; else {}\n", f.available ? "yes" : "no", f.name, f.since, f.used_for, f.instead);
  }
  if (session.json) fmt::print("{}\n", dump(list));
  return kOk;
}

int check_images(Session& session, const CheckOptions& options) {
  int code = kOk;
  auto list = nlohmann::json::array();
  for (const std::string& word : options.images) {
    nlohmann::json result{{"image", word}, {"good", true}};
    try {
      const auto image = session.open_image(word);
      const Manifest manifest = verify_image(*image, true);
      if (!session.json)
        fmt::print("{}: {} files, all as sealed\n", image->describe(), manifest.files.size());
    } catch (const Error& e) {
      // What the image lacks is damage; an image that is not there, or cannot be read by this user, is
      // trouble.
      const bool damage = e.err() == EINVAL || e.err() == EIO || e.err() == EPROTONOSUPPORT;
      code = std::max(code, damage ? kFailed : kUsage);
      result["good"] = false;
      result["error"] = e.sentence();
      if (!session.json) fmt::print(stderr, "ckpt: {}\n", e.sentence());
    }
    list.push_back(std::move(result));
  }
  if (session.json) fmt::print("{}\n", dump(list));
  return code;
}

int check_mounted(Session& session, bool full) {
  try {
    const std::string outcome = run_ctl(session.mount(), full ? "check full" : "check sampled");
    fmt::print("{}\n", session.json ? dump({{"good", true}, {"outcome", outcome}}) : outcome);
    return kOk;
  } catch (const Error& e) {
    if (e.err() != EIO) throw;
    if (session.json)
      fmt::print("{}\n", dump({{"good", false}, {"error", e.sentence()}}));
    else
      fmt::print(stderr, "ckpt: {}\n", e.sentence());
    return kFailed;
  }
}

int check_store(Session& session, bool full) {
  ProgressLine progress("check");
  const auto level = full ? Store::CheckLevel::full : Store::CheckLevel::sampled;
  const CheckResult r = session.store()->check(level, progress.callback());
  if (session.json) {
    fmt::print("{}\n", dump({{"good", r.damage.empty()},
                             {"pages_checked", r.pages_checked},
                             {"files_checked", r.files_checked},
                             {"damage", r.damage}}));
  } else {
    for (const std::string& sentence : r.damage) fmt::print(stderr, "ckpt: {}\n", sentence);
    fmt::print("{} pages and {} files checked: {}\n", r.pages_checked, r.files_checked,
               r.damage.empty() ? "all good" : fmt::format("{} damaged", r.damage.size()));
  }
  return r.damage.empty() ? kOk : kFailed;
}

int check(Session& session, const CheckOptions& options) {
  if (options.kernel) return check_kernel(session);
  if (!options.images.empty()) return check_images(session, options);
  return session.on_store() ? check_store(session, options.full) : check_mounted(session, options.full);
}

}  // namespace

void add_check(CLI::App& app, Choice& choice) {
  auto* command = app.add_subcommand("check", "Check the store, images, or the kernel");
  auto options = std::make_shared<CheckOptions>();
  auto* images =
      command->add_option("IMAGE", options->images,
                          "Image names or directories to compare with their manifests (default: the store)");
  command->add_flag("--kernel", options->kernel, "Show what this kernel offers")->excludes(images);
  command->add_flag("--full", options->full, "Read every page of the store, not one in a hundred");
  command->callback([options, &choice] {
    choice.trouble = kUsage;
    choice.run = [options](Session& s) { return check(s, *options); };
  });
}

}  // namespace ckpt::tool
