// ckptfs: mounts the store, and serves it until it is unmounted.

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <utility>

#include "ckptfs/core_source.h"
#include "ckptfs/daemon.h"
#include "ckptfs/filesystem.h"
#include "ckptfs/options.h"
#include "ckptfs/pid_namespace.h"
#include "ckptfs/session.h"
#include "ckptfs/signal_server.h"
#include "engine/store/store.h"

namespace {

/// Only for its owner: the store holds the memory of other people's processes.
void make_store_directory(const std::string& dir) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(dir).parent_path(), error);
  if (error || (::mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST)) {
    ckpt::fail(EIO, "{}: cannot be made: {}", dir, error ? error.message() : ckpt::errno_text(errno));
  }
}

/// A process whose writes are followed takes some descriptors for as long as it lives, one that is captured many more for a moment.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

int run(fuse_args& args, const ckpt::Options& options, ckpt::Background& background) {
  const ckpt::BlockedSignals blocked;
  raise_descriptor_limit();
  make_store_directory(options.store);
  const auto store = ckpt::open_rocksdb_store(options.store);
  ckpt::Filesystem filesystem(*store, options.store, ckpt::elf_core_of);
  filesystem.commands().use_engine(options.engine);
  filesystem.commands().mounted_at(options.mountpoint);
  ckpt::UniqueFd signal_device = ckpt::open_signal_device();
  ckpt::Session session(args, options, filesystem);
  const ckpt::SignalServer signals(filesystem, std::move(signal_device));
  background.ready();
  return session.serve();
}

}  // namespace

int main(int argc, char** argv) {
  if (ckpt::is_pid_namespace_helper(argc, argv)) ckpt::pid_namespace_helper(argv);
  fuse_args args = FUSE_ARGS_INIT(argc, argv);
  ckpt::Background background;
  int status = EXIT_FAILURE;
  try {
    const ckpt::Options options = ckpt::parse_options(args);
    if (options.show_help) {
      ckpt::print_help(argv[0]);
      status = EXIT_SUCCESS;
    } else if (options.show_version) {
      std::printf("ckptfs %s (libfuse %s)\n", CKPT_VERSION, fuse_pkgversion());
      status = EXIT_SUCCESS;
    } else {
      if (!options.foreground) background.begin();
      status = run(args, options, background);
    }
  } catch (const std::exception& error) {
    background.failed(error.what());
  }
  fuse_opt_free_args(&args);
  return status;
}
