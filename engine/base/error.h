// The one exception type of the project: an errno and a whole sentence that names the object.
//
//   fail(EOPNOTSUPP, "{}: fd {}: an io_uring instance cannot be checkpointed", pid, fd);
//   fail_errno("{}: fd {} ({}): open", pid, fd, path);      // ": No such file or directory" is appended
//
// Exceptions stay inside: ckptfs and tools each have one place that turns an Error into a reply or an exit code.
#pragma once

#include <fmt/format.h>

#include <cerrno>
#include <exception>
#include <string>
#include <utility>

namespace ckpt {

/// Where in the source something was written: std::source_location, which clang 14 does not offer with GCC's library.
struct SourceLocation {
  const char* file = "";
  unsigned line = 0;
  static constexpr SourceLocation current(const char* f = __builtin_FILE(), unsigned l = __builtin_LINE()) {
    return {f, l};
  }
};

class Error : public std::exception {
 public:
  Error(int err, std::string sentence, SourceLocation where = SourceLocation::current())
      : errno_(err), sentence_(std::move(sentence)), where_(where) {}

  /// The errno that a system call would report; never 0.
  int err() const { return errno_; }
  /// The sentence for the user, without a newline.
  const std::string& sentence() const { return sentence_; }
  const char* what() const noexcept override { return sentence_.c_str(); }
  /// Where it was thrown, for the daemon's debug log only.
  const SourceLocation& where() const { return where_; }

 private:
  int errno_;
  std::string sentence_;
  SourceLocation where_;
};

/// Text of an errno, as strerror(3), but thread-safe and without allocation.
const char* errno_text(int err);

/// A format string that remembers where it was written, so that fail() can record its caller.
template <typename... Args>
struct LocatedFormat {
  template <typename S>
  consteval LocatedFormat(const S& s, SourceLocation w = SourceLocation::current())
      : format(s), where(w) {}
  fmt::format_string<Args...> format;
  SourceLocation where;
};

template <typename... Args>
[[noreturn]] void fail(int err, LocatedFormat<std::type_identity_t<Args>...> format, Args&&... args) {
  throw Error(err, fmt::format(format.format, std::forward<Args>(args)...), format.where);
}

/// Throws with the present errno, its text appended to the sentence.
template <typename... Args>
[[noreturn]] void fail_errno(LocatedFormat<std::type_identity_t<Args>...> format, Args&&... args) {
  const int err = errno;
  throw Error(err, fmt::format(format.format, std::forward<Args>(args)...) + ": " + errno_text(err), format.where);
}

}  // namespace ckpt
