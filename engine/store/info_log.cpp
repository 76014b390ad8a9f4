#include "engine/store/info_log.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>

#include "engine/base/fd.h"

namespace ckpt {

namespace {

constexpr off_t kLargest = 1 << 20;
constexpr size_t kLine = 1000;

class InfoLog : public rocksdb::Logger {
 public:
  explicit InfoLog(const std::string& file)
      : rocksdb::Logger(rocksdb::WARN_LEVEL), file_(open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) {}

  using rocksdb::Logger::Logv;
  void Logv(const char* format, va_list arguments) override {
    char text[kLine];
    const int size = vsnprintf(text, sizeof text, format, arguments);
    if (size < 0 || !file_) return;
    const std::string_view message(text, std::min(static_cast<size_t>(size), sizeof text - 1));
    const std::string line = fmt::format("{:%F %T} {}{}", fmt::gmtime(time(nullptr)), message,
                                         message.ends_with('\n') ? "" : "\n");
    (void)!write(file_.get(), line.data(), line.size());
  }

 private:
  const UniqueFd file_;
};

}  // namespace

std::shared_ptr<rocksdb::Logger> open_info_log(const std::string& dir) {
  const std::string file = dir + "/LOG";
  struct stat st {};
  if (stat(file.c_str(), &st) == 0 && st.st_size > kLargest) (void)!rename(file.c_str(), (file + ".old").c_str());
  return std::make_shared<InfoLog>(file);
}

}  // namespace ckpt
