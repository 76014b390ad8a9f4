#include "ckptfs/filesystem.h"

#include <unistd.h>

#include <map>

#include "ckptfs/cores_dir.h"
#include "ckptfs/ctl.h"
#include "ckptfs/text_node.h"
#include "engine/process/injected_calls.h"

namespace ckpt {

namespace {

class RootDir : public Node {
 public:
  explicit RootDir(Commands& commands) : Node(kRootIno), commands_(commands) {}

  void add(const std::string& name, mode_t type, NodePtr node) {
    children_.emplace(name, Child{std::move(node), type});
  }

  struct stat stat() const override {
    nlink_t links = 2;
    for (const auto& [name, child] : children_) links += S_ISDIR(child.type) ? 1 : 0;
    return make_stat(S_IFDIR | 0755, ::geteuid(), ::getegid(), 0, links, started_);
  }
  double attribute_timeout() const override { return 1; }

  NodePtr lookup(const Request&, const std::string& name) override {
    if (name == "ctl") return std::make_shared<CtlNode>(commands_);
    const auto found = children_.find(name);
    if (found == children_.end()) fail(ENOENT, "{}: no such file", name);
    return found->second.node;
  }

  std::vector<DirEntry> list(const Request&) override {
    std::vector<DirEntry> result{{"ctl", kCtlIno, S_IFREG, nullptr}};
    for (const auto& [name, child] : children_) {
      result.push_back({name, child.node->ino(), child.type, nullptr});
    }
    return result;
  }

 private:
  Commands& commands_;
  struct Child {
    NodePtr node;
    mode_t type;
  };
  std::map<std::string, Child> children_;
  const struct timespec started_ = now();
};

}  // namespace

Filesystem::Filesystem(Store& store, std::string store_dir, CoreFactory cores)
    : store_dir_(std::move(store_dir)),
      catalog_(store),
      commands_(catalog_, log_, counters_),
      images_{catalog_, {}, {}, {}},
      images_dir_(std::make_shared<ImagesDir>(images_, log_, counters_)),
      drop_box_(std::make_shared<DropBox>(store, log_, counters_)) {
  const auto root = std::make_shared<RootDir>(commands_);
  root->add("images", S_IFDIR, images_dir_);
  root->add("cores", S_IFDIR, std::make_shared<CoresDir>(catalog_, std::move(cores)));
  root->add("restore", S_IFDIR, drop_box_);
  root->add("stats", S_IFREG, std::make_shared<TextNode>(kStatsIno, 0444, ::geteuid(), ::getegid(),
                                                         [this] { return stats(); }));
  inodes_ = std::make_unique<InodeTable>(root);
}

void Filesystem::began(CancelFlag* work) {
  const std::lock_guard lock(mutex_);
  under_way_.insert(work);
  if (ending_) *work = true;
}

void Filesystem::ended(CancelFlag* work) {
  const std::lock_guard lock(mutex_);
  under_way_.erase(work);
}

bool Filesystem::is_ending() {
  const std::lock_guard lock(mutex_);
  return ending_;
}

void Filesystem::end() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    for (CancelFlag* work : under_way_) *work = true;
  }
  commands_.series().end_all();
  commands_.lazy().complete(nullptr);
  workers_.wait_idle();
}

void Filesystem::on_change_of_name(const StagingArea::ForgetName& forget_name) {
  images_dir_->on_change_of_name(forget_name);
  drop_box_->on_change_of_name(forget_name);
  catalog_.on_change_of_name(
      [this, forget_name, directory = images_dir_->ino()](const std::string& name) {
        // At the end nobody answers any more, and who waits for an answer may hold the directory.
        if (!is_ending()) forget_name(directory, name);
      });
}

std::string Filesystem::stats() {
  const StoreStats store = catalog_.store().stats();
  std::string text;
  const auto line = [&](std::string_view name, uint64_t value) { text += fmt::format("{} {}\n", name, value); };
  line("images", store.images);
  line("logical_bytes", store.logical_bytes);
  line("unique_pages", store.unique_pages);
  line("stored_bytes", store.stored_bytes);
  text += fmt::format("dedup_ratio {:.2f}\n",
                      store.unique_pages == 0 ? 1.0
                                              : static_cast<double>(store.logical_bytes) /
                                                    static_cast<double>(store.unique_pages * kPageSize));
  line("index_bytes", store.index_bytes);
  line("packs", store.packs);
  line("checkpoints", counters_.checkpoints);
  line("kernel_checkpoints", counters_.kernel_checkpoints);
  line("injected_calls", injected_calls);
  line("incremental_checkpoints", counters_.incremental_checkpoints);
  text += fmt::format("tracking {}\n", MemoryTracking::kernel_can() ? "wp-async" : "none");
  line("tracked_processes", commands_.tracking().size());
  line("failed_checkpoints", counters_.failed_checkpoints);
  line("resumes", counters_.resumes);
  line("lazy_fills", commands_.lazy().size());
  line("lazy_bytes_left", commands_.lazy().bytes_left());
  line("lazy_bytes", commands_.lazy().figures().bytes);
  line("lazy_faults", commands_.lazy().figures().faults);
  line("failed_resumes", counters_.failed_resumes);
  line("imports", counters_.imports);
  const auto series = commands_.series().running();
  line("series", series.size());
  for (const auto& [pid, taken] : series) line(fmt::format("series_{}", pid), taken);
  line("failed_in_series", counters_.failed_in_series);
  line("inodes", inodes_->size());
  return text;
}

}  // namespace ckpt
