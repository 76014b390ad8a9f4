#include "ckptfs/series.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>

#include "engine/base/error.h"
#include "engine/store/image_name.h"

namespace ckpt {

Series::Series(Catalog& catalog, CommandLog& log, Counters& counters, Hooks hooks, CheckpointCommand command, Caller caller,
               LogKey key)
    : catalog_(catalog),
      log_(log),
      counters_(counters),
      hooks_(std::move(hooks)),
      command_(std::move(command)),
      rule_(command_.series.value()),
      caller_(std::move(caller)),
      key_(key),
      names_move_on_(catalog_.readers().series_runs()) {
  pid_fd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, command_.pid, 0)));
  if (!pid_fd_) fail_errno("{}: pidfd_open", command_.pid);
  wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) fail_errno("eventfd");
}

Series::~Series() { end_and_wait(); }

uint64_t Series::end_and_wait() {
  end();
  if (thread_.joinable()) thread_.join();
  return taken_;
}

void Series::start(const CheckpointResult& first) {
  began_ = Clock::now();
  note(first);
  thread_ = std::thread([this] { run(); });
}

void Series::end() noexcept {
  cancel_ = true;
  const uint64_t one = 1;
  // It fails only where the counter is full, and wakes as well then.
  (void)!::write(wake_.get(), &one, sizeof one);
}

bool Series::process_ended() const {
  pollfd fd = {pid_fd_.get(), POLLIN, 0};
  return ::poll(&fd, 1, 0) > 0;
}

bool Series::rule_fulfilled() const {
  return (rule_.until_count != 0 && taken_ >= rule_.until_count) ||
         (rule_.until_time.count() != 0 && Clock::now() - began_ >= rule_.until_time);
}

bool Series::wait_until(Clock::time_point due) const {
  if (rule_.until_time.count() != 0) due = std::min(due, began_ + rule_.until_time);
  std::array<pollfd, 2> fds = {{{wake_.get(), POLLIN, 0}, {pid_fd_.get(), POLLIN, 0}}};
  while (!cancel_) {
    const auto left = std::max(due - Clock::now(), Clock::duration(0));
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
    const timespec timeout = {seconds.count(), (left - seconds).count()};
    const int ready = ::ppoll(fds.data(), fds.size(), &timeout, nullptr);
    if (ready == 0) return true;
    if (ready > 0) return false;
  }
  return false;
}

void Series::run() noexcept {
  try {
    Clock::time_point due = began_;
    while (!rule_fulfilled()) {
      // What could not be taken in time is left out.
      due = std::max(due + rule_.every, Clock::now());
      if (!wait_until(due) || rule_fulfilled() || !take_one()) break;
    }
    hooks_.ended(command_.pid);
    log_.add(key_, fmt::format("{}: the series has ended after {} checkpoint{}{}", command_.pid, taken_.load(),
                               taken_ == 1 ? "" : "s", process_ended() ? ", with the process" : ""));
  } catch (const std::exception&) {
    // No memory for a line of the log.
  }
  names_move_on_.reset();
  over_ = true;
}

bool Series::take_one() {
  try {
    note(hooks_.take(command_, caller_, &cancel_));
    last_failure_.clear();
    thin_out();
  } catch (const std::exception& error) {
    if (cancel_) return false;
    ++counters_.failed_in_series;
    // The pid may become another's.
    if (process_ended()) return false;
    const auto* known = dynamic_cast<const Error*>(&error);
    const std::string sentence = known != nullptr ? known->sentence() : fmt::format("{}: {}", command_.pid, error.what());
    // Once, however often it comes in a row.
    if (sentence != last_failure_) log_.add(key_, sentence);
    last_failure_ = sentence;
  }
  return !process_ended();
}

void Series::note(const CheckpointResult& result) {
  ++taken_;
  if (!rule_.keep.keeps_all()) images_.push_back({result.image_id, result.time_ns, {}});
}

std::optional<uint64_t> Series::learn_names() {
  std::map<uint64_t, std::string> names;
  std::optional<uint64_t> newest;
  for (ImageInfo& info : catalog_.store().images()) {
    if (info.name == base_name()) newest = info.id;
    // With any other name somebody wants to keep it.
    if (parse_earlier_name(info.name, base_name())) names.emplace(info.id, std::move(info.name));
  }
  for (Image& image : images_) {
    if (const auto found = names.find(image.id); found != names.end()) image.name = std::move(found->second);
  }
  return newest;
}

bool Series::remove(const Image& image) {
  ImageUses::Claim claim = catalog_.uses().claim(image.id);
  if (!claim) return false;
  try {
    catalog_.store().delete_image(image.name, image.id);
    claim.image_is_gone();
    catalog_.changed();
    catalog_.forget_name(image.name);
  } catch (const Error& error) {
    if (error.err() != ENOENT) throw;
    // Somebody has deleted it, or has given it another name to keep it.
  }
  return true;
}

void Series::thin_out() {
  std::vector<uint64_t> times;
  for (const Image& image : images_) times.push_back(image.time_ns);
  const std::vector<size_t> goes = rule_.keep.superfluous(times);
  std::optional<uint64_t> newest;
  if (std::ranges::any_of(goes, [this](size_t i) { return images_[i].name.empty(); })) newest = learn_names();
  for (size_t i = goes.size(); i-- > 0;) {
    const auto image = images_.begin() + static_cast<ptrdiff_t>(goes[i]);
    // Without such a name it is gone, or somebody's.
    if (image->name.empty() ? newest != image->id : remove(*image)) images_.erase(image);
  }
}

// ---- all of them ----

void SeriesSet::forget_ended() {
  std::erase_if(series_, [](const auto& entry) { return entry.second->over(); });
}

CheckpointResult SeriesSet::begin(const CheckpointCommand& command, const Caller& caller, const LogKey& key,
                                  const CancelFlag* cancel) {
  const auto series = std::make_shared<Series>(catalog_, log_, counters_, hooks_, command, caller, key);
  {
    const std::lock_guard lock(mutex_);
    forget_ended();
    if (ending_) fail(EINTR, "{}: the mount ends", command.pid);
    if (!series_.emplace(command.pid, series).second) {
      fail(EBUSY, "{}: the process has a series already, which every=never ends", command.pid);
    }
  }
  try {
    CheckpointResult first = hooks_.take(command, caller, cancel);
    catalog_.readers().forget(first.name);
    const std::lock_guard lock(mutex_);
    const auto it = series_.find(command.pid);
    if (it == series_.end() || it->second != series) {
      fail(EINTR, "{}: the series was ended while its first checkpoint was taken, which is in images/{}", command.pid,
           first.name);
    }
    series->start(first);
    return first;
  } catch (...) {
    hooks_.ended(command.pid);
    const std::lock_guard lock(mutex_);
    if (const auto it = series_.find(command.pid); it != series_.end() && it->second == series) series_.erase(it);
    throw;
  }
}

uint64_t SeriesSet::end(pid_t pid, const Caller& caller) {
  std::shared_ptr<Series> series;
  {
    const std::lock_guard lock(mutex_);
    forget_ended();
    const auto it = series_.find(pid);
    if (it == series_.end()) fail(ENOENT, "{}: the process has no series", pid);
    if (caller.uid != 0 && caller.uid != it->second->owner()) fail(EPERM, "{}: only who began the series may end it", pid);
    series = std::move(it->second);
    series_.erase(it);
  }
  return series->end_and_wait();
}

bool SeriesSet::has(pid_t pid) {
  const std::lock_guard lock(mutex_);
  forget_ended();
  return series_.contains(pid);
}

void SeriesSet::end_all() {
  std::map<pid_t, std::shared_ptr<Series>> all;
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    all.swap(series_);
  }
  for (const auto& [pid, series] : all) series->end();
}

std::vector<std::pair<pid_t, uint64_t>> SeriesSet::running() {
  const std::lock_guard lock(mutex_);
  forget_ended();
  std::vector<std::pair<pid_t, uint64_t>> out;
  for (const auto& [pid, series] : series_) out.emplace_back(pid, series->taken());
  return out;
}

}  // namespace ckpt
