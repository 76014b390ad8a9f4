#include "ckptfs/options.h"

#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <vector>

#include "engine/base/error.h"

namespace ckpt {

namespace {

/// What our own option processor collects; a C struct, as fuse_opt wants offsets into it.
struct Parsed {
  char* store = nullptr;
  char* engine = nullptr;
  std::vector<std::string>* positional = nullptr;
};

// NOLINTNEXTLINE: the layout of fuse_opt
const fuse_opt kOptions[] = {
    {"store=%s", offsetof(Parsed, store), 0},
    {"engine=%s", offsetof(Parsed, engine), 0},
    FUSE_OPT_END,
};

int process(void* data, const char* arg, int key, fuse_args*) {
  if (key != FUSE_OPT_KEY_NONOPT) return 1;
  static_cast<Parsed*>(data)->positional->emplace_back(arg);
  return 0;
}

void add_option(fuse_args& args, const std::string& option) {
  if (fuse_opt_add_arg(&args, "-o") != 0 || fuse_opt_add_arg(&args, option.c_str()) != 0) throw std::bad_alloc();
}

/// As mount(8) shows it; a comma would end the option.
std::string escaped(const std::string& value) {
  std::string text;
  for (const char c : value) {
    if (c == ',' || c == '\\') text += '\\';
    text += c;
  }
  return text;
}

/// libfuse would mount on a plain file too, which is then neither a file nor a directory.
void check_mount_point(const std::string& path) {
  if (path.starts_with("/dev/fd/")) return;  // libfuse's way to be handed a mount that is made already
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) {
    const int err = errno;
    // What a ckptfs leaves that was killed.
    const std::string remedy =
        err == ENOTCONN ? fmt::format(" (what was mounted there has died: fusermount3 -u {})", path) : std::string();
    fail(err, "{}: cannot be mounted on: {}{}", path, errno_text(err), remedy);
  }
  if (!S_ISDIR(st.st_mode)) fail(ENOTDIR, "{}: cannot be mounted on: {}", path, errno_text(ENOTDIR));
}

EngineChoice engine_named(const std::string& name) {
  if (name == "auto") return EngineChoice::automatic;
  if (name == "kernel") return EngineChoice::kernel;
  if (name == "ptrace") return EngineChoice::ptrace;
  fail(EINVAL, "engine={}: it is auto, kernel or ptrace", name);
}

/// What is left of the arguments is libfuse's, which looks at it when a session is made, and so not before there is a store.
void check_known(const fuse_args& args) {
  fuse_args copy = FUSE_ARGS_INIT(0, nullptr);
  for (int i = 0; i < args.argc; ++i) fuse_opt_add_arg(&copy, args.argv[i]);
  const fuse_lowlevel_ops none{};
  fuse_session* const session = fuse_session_new(&copy, &none, sizeof none, nullptr);
  fuse_opt_free_args(&copy);
  if (session == nullptr) fail(EINVAL, "an option is not known, or not valid");
  fuse_session_destroy(session);
}

std::string absolute(const std::string& path) { return std::filesystem::absolute(path).lexically_normal().string(); }

}  // namespace

std::string default_store() {
  if (::geteuid() == 0) return "/var/lib/ckptfs";
  if (const char* state = std::getenv("XDG_STATE_HOME"); state != nullptr && state[0] == '/') {
    return std::string(state) + "/ckptfs";
  }
  const char* home = std::getenv("HOME");
  if (home == nullptr || home[0] != '/') {
    const passwd* user = ::getpwuid(::geteuid());
    home = user != nullptr ? user->pw_dir : nullptr;
  }
  if (home == nullptr) fail(EINVAL, "no home directory to keep a store in: give one with -o store=DIR");
  return std::string(home) + "/.local/state/ckptfs";
}

Options parse_options(fuse_args& args) {
  std::vector<std::string> positional;
  Parsed parsed;
  parsed.positional = &positional;
  if (fuse_opt_parse(&args, &parsed, kOptions, process) != 0) fail(EINVAL, "the options cannot be parsed");
  const std::unique_ptr<char, decltype(&std::free)> store(parsed.store, &std::free);
  const std::unique_ptr<char, decltype(&std::free)> engine(parsed.engine, &std::free);

  // mount(8) gives the first field of fstab as well: a store's directory, or a name that means nothing.
  if (positional.size() > 2) fail(EINVAL, "more than one mount point is given");
  Options options;
  if (store) options.store = store.get();
  if (engine) options.engine = engine_named(engine.get());
  if (positional.size() == 2) {
    if (options.store.empty() && positional[0].starts_with('/')) options.store = positional[0];
    positional.erase(positional.begin());
  }
  if (!positional.empty()) {
    check_mount_point(positional[0]);
    fuse_opt_add_arg(&args, positional[0].c_str());
  }

  fuse_cmdline_opts common{};
  if (fuse_parse_cmdline(&args, &common) != 0) fail(EINVAL, "the options cannot be parsed");
  const std::unique_ptr<char, decltype(&std::free)> mountpoint(common.mountpoint, &std::free);
  options.show_help = common.show_help != 0;
  options.show_version = common.show_version != 0;
  options.foreground = common.foreground != 0;
  options.single_threaded = common.singlethread != 0;
  options.max_threads = common.max_threads;
  if (options.show_help || options.show_version) return options;
  if (!mountpoint) fail(EINVAL, "no mount point is given");
  options.mountpoint = mountpoint.get();
  options.store = absolute(options.store.empty() ? default_store() : options.store);

  add_option(args, "default_permissions,subtype=ckptfs,fsname=" + escaped(options.store));
  if (::geteuid() == 0) add_option(args, "allow_other");
  check_known(args);
  return options;
}

void print_help(const char* program) {
  std::printf(
      "usage: %s [options] MOUNTPOINT\n"
      "\n"
      "Checkpoints of running programs, as files: `echo PID > MOUNTPOINT/ctl` takes one, MOUNTPOINT/images shows\n"
      "them, and a copy of one in MOUNTPOINT/restore resumes it.\n"
      "\n"
      "    -o store=DIR           where the images are kept (default: %s)\n"
      "    -o engine=auto         how a process is read: ptrace, kernel (the module ckpt.ko), or auto\n",
      program, default_store().c_str());
  fuse_cmdline_help();
  fuse_lowlevel_help();
}

}  // namespace ckpt
