// ckpt restore: resume an image of the mount, of a store, or a copy in a directory.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/engine.h"
#include "engine/image/manifest.h"
#include "tools/ckpt/commands.h"
#include "tools/ckpt/copy_image.h"
#include "tools/ckpt/ctl.h"
#include "tools/ckpt/foreground.h"

namespace ckpt::tool {

namespace {

struct RestoreOptions {
  std::string image;
  bool foreground = false;
  bool stopped = false;
  bool lazy = false;
  std::vector<std::string> words;
};

/// A place in the drop box that is free: an earlier attempt may have left its directory there.
std::string drop_place(const std::string& mount, const std::string& dir) {
  std::string name = std::filesystem::canonical(dir).filename();
  std::string place = mount + "/restore/" + name;
  struct stat st {};
  if (::lstat(place.c_str(), &st) == 0) place += "." + std::to_string(::getpid());
  return place;
}

/// The sentence that the mount left beside a drop that failed, or nothing.
std::string drop_error(const std::string& place) {
  try {
    std::string text = read_file(place + "/error");
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
  } catch (const Error&) {
    return "";
  }
}

/// The mount would wait for a file that is missing.
void require_all_files(const std::string& dir) {
  const auto image = open_directory_image(dir);
  for (const auto& [path, file] : Manifest::parse(image->read(kManifestName), dir).files) {
    if (!image->has(path)) fail(ENOENT, "{}: {} is missing", dir, path);
  }
}

std::string restore_directory(const std::string& mount, const std::string& dir) {
  if (::access((dir + "/manifest").c_str(), F_OK) != 0) fail_errno("{}: not an image: {}/manifest", dir, dir);
  require_all_files(dir);
  const std::string place = drop_place(mount, dir);
  try {
    copy_image(dir, place);
  } catch (const Error& e) {
    const std::string sentence = drop_error(place);
    std::error_code ignored;  // the failure to report is the first one
    std::filesystem::remove_all(place, ignored);
    throw Error(e.err(), sentence.empty() ? e.sentence() : sentence);
  }
  return dir + ": resumed";
}

std::string restore_from_store(Session& session, const RestoreOptions& options) {
  const auto image = session.open_image(options.image);
  verify_image(*image, Session::is_directory_word(options.image));
  ResumeOptions how;
  how.stopped = options.stopped;
  const ResumeResult result = resume(*image, Caller::self(), how);
  return result.with_note(fmt::format("{}: resumed as {}", options.image, result.pid));
}

int restore_in_foreground(Session& session, const std::string& word) {
  const auto image = session.open_image(word);
  // Images of the mount are as they were committed, and damaged pages are found as they are read.
  verify_image(*image, Session::is_directory_word(word));
  return run_in_foreground(*image);
}

int restore(Session& session, const RestoreOptions& options) {
  if (options.foreground) return restore_in_foreground(session, options.image);
  std::string outcome;
  if (session.on_store()) {
    if (options.lazy) fail(EINVAL, "{}: --lazy needs a mount: who brings in the memory must stay", options.image);
    outcome = restore_from_store(session, options);
  } else if (Session::is_directory_word(options.image)) {
    if (options.stopped || options.lazy || !options.words.empty()) {
      fail(EINVAL, "{}: a copy is resumed as it is: --stopped, --lazy and -o need an image of the mount",
           options.image);
    }
    outcome = restore_directory(session.mount(), options.image);
  } else {
    std::string line = "restore " + options.image;
    if (options.stopped) line += " stopped";
    if (options.lazy) line += " lazy";
    for (const std::string& word : options.words) line += " " + word;
    outcome = run_ctl(session.mount(), line);
  }
  fmt::print("{}\n",
             session.json ? nlohmann::json{{"image", options.image}, {"outcome", outcome}}.dump(2) : outcome);
  return kOk;
}

}  // namespace

void add_restore(CLI::App& app, Choice& choice) {
  auto* command = app.add_subcommand("restore", "Resume an image under its old pid");
  auto options = std::make_shared<RestoreOptions>();
  command->add_option("IMAGE", options->image, "Image name, or directory of a copy (a path with a slash)")
      ->required();
  auto* foreground =
      command->add_flag("-f,--foreground", options->foreground,
                        "Give the program this terminal or pipe, wait, and end with its exit status");
  command->add_flag("--stopped", options->stopped, "Leave it stopped (SIGCONT lets it go on)")
      ->excludes(foreground);
  command->add_flag("--lazy", options->lazy, "Let it run at once, and bring in its memory meanwhile")->excludes(foreground);
  command->add_option("-o,--option", options->words, "A further word for ctl, see ckpt-ctl(5)")
      ->type_name("WORD")
      ->allow_extra_args(false)
      ->excludes(foreground);
  command->callback([options, &choice] {
    choice.trouble = options->foreground ? kNotStarted : kFailed;
    choice.run = [options](Session& s) { return restore(s, *options); };
  });
}

}  // namespace ckpt::tool
