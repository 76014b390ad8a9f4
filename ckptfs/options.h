// The command line of ckptfs: a FUSE program like the others.
#pragma once

#include <string>

#include "ckptfs/fuse_api.h"
#include "engine/engine.h"

namespace ckpt {

struct Options {
  std::string mountpoint;
  std::string store;
  bool foreground = false;   ///< -f, or implied by -d
  bool single_threaded = false;
  EngineChoice engine = EngineChoice::automatic;
  unsigned max_threads = 0;
  bool show_help = false;
  bool show_version = false;
};

/// Parses `args`; what remains in it is for fuse_session_new(). Adds the options that this filesystem always wants:
/// default_permissions, a name and type for mount(8), and for root allow_other. Throws Error(EINVAL) with a sentence.
Options parse_options(fuse_args& args);

/// The store where none is given: /var/lib/ckptfs for root, else $XDG_STATE_HOME/ckptfs or ~/.local/state/ckptfs.
std::string default_store();

void print_help(const char* program);

}  // namespace ckpt
