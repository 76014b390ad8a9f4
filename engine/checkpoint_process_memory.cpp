// The memory of one process of a checkpoint: how it is fixed, read, and followed afterwards.
#include "engine/base/error.h"
#include "engine/base/parallel.h"
#include "engine/base/record.h"
#include "engine/checkpoint_checks.h"
#include "engine/checkpoint_process.h"
#include "engine/memory/capture_memory.h"
#include "engine/memory/tracking_set.h"

namespace ckpt {
namespace {

/// Whether one of the processes captured so far gets the children that others leave behind.
bool has_subreaper(const ImageSource& image) {
  for (const ImageEntry& entry : image.entries()) {
    if (entry.path != "process" && !entry.path.ends_with("/process")) continue;
    if (Record::parse(image.read(entry.path), entry.path).get_u64("child_subreaper", 1) == 1) return true;
  }
  return false;
}

}  // namespace

void ProcessCapture::prepare_snapshot(std::string_view without) {
  if (sharing_.memory != 0) return;
  SnapshotTarget target;
  target.pid = pid_;
  target.stays_stopped = shared_.options.after != AfterCapture::go_on;
  target.memory = shared_.options.memory;
  target.engine = shared_.options.engine;
  target.without = without;
  target.only = shared_.options.snapshot;
  if (tracking_ && goes_on_with_memory()) {
    if (tracking_->follows() && !shared_.common_memory.contains(pid_) && without.empty() && target.only.empty()) {
      target.tracking = tracking_.get();
    } else {
      tracking_->end();  // a mapping has one userfaultfd at a time
    }
  }
  target.cpus = &cpus_;
  target.scratch = [&store = shared_.store] { return store.scratch_file(); };
  target.orphans_stay = [this] { return has_subreaper(*shared_.image); };
  snapshot_ = choose_snapshot(target, memory_.vmas());
  if (!incremental() && !snapshot_->wants_prepare_stop()) return;
  if (snapshot_->wants_prepare_stop()) {
    StoppedProcess process(pid_);
    process.stop(shared_.options.cancel);
    snapshot_->prepare(parse_maps(process.maps(), fmt::format("/proc/{}/maps", pid_)), process.leader());
  }
  shared_.check_cancel();
  in_thread_that_gives_way([&] { snapshot_->arm(memory_.vmas()); });
}

bool ProcessCapture::goes_on_with_memory() const {
  return shared_.options.after == AfterCapture::go_on && shared_.options.memory;
}

void ProcessCapture::fix_snapshot() {
  if (!snapshot_) return;
  if (tracking_ && goes_on_with_memory()) {
    tracking_->attach(process_->leader());
    process_->finish_calls();
  }
  snapshot_->spare(std::move(shared_.exit_words[pid_]));
  snapshot_->fix(memory_.vmas(), process_->leader());
  // All of a small process is in our hands now: it may end as soon as it goes on. Another one's pages need it longer, and
  // in the stop the flags of its new mappings would cost too much.
  if (std::string_view(snapshot_->name()) == "copy") memory_.complete();
  process_->finish_calls();
}

void ProcessCapture::read_pages() {
  if (!snapshot_) return;
  try {
    capture_memory(*snapshot_, memory_.vmas(), *shared_.image, prefix_, shared_.options.cancel,
                   stopped() || cpus_.a_cpu_is_free());
  } catch (const Error& error) {
    if (error.err() == EINTR) shared_.check_cancel();  // says of which process
    throw;
  }
}

void ProcessCapture::capture_memory_map() {
  if (!snapshot_) return;
  if (!memory_.complete()) fail(ESRCH, "{}: the process has ended", pid_);
  refuse_mappings(pid_, memory_.vmas(), shared_.refusals);
  shared_.refusals.raise();
  shared_.image->put(prefix_ + "maps", memory_.maps());
  shared_.image->put(prefix_ + "smaps", memory_.smaps());
}

void ProcessCapture::follow(const std::shared_ptr<const ImageSource>& image) noexcept {
  if (!tracking_ || !goes_on_with_memory()) return;
  try {
    if (!snapshot_ || shared_.common_memory.contains(pid_)) {
      tracking_->end();
    } else if (incremental()) {
      tracking_->advance(image, prefix_);
    } else if (tracking_->attached()) {
      tracking_->begin(image, prefix_, shared_.options.tracking->least_bytes(), [this] {
        StoppedProcess process(pid_);
        process.stop(shared_.options.cancel);
      }, shared_.options.cancel);
    }
  } catch (const std::exception&) {
    // The image is there; the next one will be read in full.
    tracking_->end();
  }
}

void ProcessCapture::release_snapshot() noexcept {
  if (snapshot_) snapshot_->release();
}

}  // namespace ckpt
