#include "ckptfs/daemon.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <syslog.h>
#include <unistd.h>

#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "ckptfs/fuse_api.h"
#include "engine/base/error.h"

#include <fuse_log.h>

namespace ckpt {

namespace {

/// The first byte of a report; a sentence follows the second.
constexpr char kReady = 'R';
constexpr char kFailed = 'F';

[[noreturn]] void wait_for_report(int pipe) {
  std::string report;
  try {
    report = read_all(pipe, "report of the daemon");
  } catch (const Error& error) {
    report = kFailed + error.sentence();
  }
  if (report == std::string(1, kReady)) ::_exit(EXIT_SUCCESS);
  // It died without a word where the report is empty.
  std::fprintf(stderr, "ckptfs: %s\n", report.empty() ? "the daemon ended at its start" : report.c_str() + 1);
  ::_exit(EXIT_FAILURE);
}

/// The protocol of sd_notify(3): a datagram to the socket that $NOTIFY_SOCKET names, "@..." for an abstract one. A service
/// manager that cannot be told goes by its own time limit.
void tell_service_manager() {
  const char* variable = std::getenv("NOTIFY_SOCKET");
  if (variable == nullptr) return;
  const std::string_view path = variable;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() < 2 || path.size() >= sizeof(address.sun_path)) return;
  path.copy(address.sun_path, path.size());
  if (path[0] == '@') address.sun_path[0] = '\0';
  const UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  constexpr std::string_view kReadyState = "READY=1";
  if (socket) {
    ::sendto(socket.get(), kReadyState.data(), kReadyState.size(), MSG_NOSIGNAL, reinterpret_cast<sockaddr*>(&address),
             static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size()));
  }
}

void log_to_syslog(fuse_log_level level, const char* format, va_list args) {
  ::vsyslog(LOG_DAEMON | static_cast<int>(level), format, args);
}

}  // namespace

void Background::begin() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) fail_errno("pipe");
  UniqueFd reading(ends[0]);
  report_.reset(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) fail_errno("fork");
  if (child > 0) {
    report_.reset();
    wait_for_report(reading.get());
  }
  ::setsid();
}

void Background::ready() {
  tell_service_manager();
  if (!report_) return;
  if (::chdir("/") != 0) fail_errno("/: chdir");
  const UniqueFd null = open_at(AT_FDCWD, "/dev/null", O_RDWR);
  for (int fd = 0; fd <= 2; ++fd) ::dup2(null.get(), fd);
  ::openlog("ckptfs", LOG_PID, LOG_DAEMON);
  fuse_set_log_func(log_to_syslog);
  write_all(report_.get(), std::string(1, kReady), "report to the terminal");
  report_.reset();
}

void Background::failed(const std::string& sentence) {
  if (!report_) {
    std::fprintf(stderr, "ckptfs: %s\n", sentence.c_str());
    return;
  }
  write_all(report_.get(), kFailed + sentence, "report to the terminal");
  report_.reset();
}

}  // namespace ckpt
