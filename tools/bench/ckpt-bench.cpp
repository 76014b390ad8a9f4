// ckpt-bench: the numbers of ckptfs, each beside a floor that is measured in the same run. Prints a table in
// markdown.
#include <fmt/ranges.h>
#include <sys/utsname.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/base/record.h"
#include "tools/bench/bench.h"

namespace {

using namespace ckpt;
using namespace ckpt::bench;

struct Settings {
  std::string dir = "/var/tmp";
  std::string ckptfs;
  bool quick = false;
  bool large = false;
  std::vector<std::string> only;
};

/// A fresh directory on the disk to measure, removed at the end.
class WorkDir {
 public:
  explicit WorkDir(const std::string& parent) : path_(parent + "/ckpt-bench.XXXXXX") {
    if (!::mkdtemp(path_.data())) fail_errno("{}", path_);
  }
  WorkDir(const WorkDir&) = delete;
  WorkDir& operator=(const WorkDir&) = delete;
  ~WorkDir() {
    std::error_code ignored;  // a file that stays is seen by its name
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string cpu_model() {
  const std::string text = read_file("/proc/cpuinfo");
  const size_t at = text.find("model name");
  if (at == std::string::npos) return "unknown CPU";
  const size_t colon = text.find(':', at), end = text.find('\n', at);
  return text.substr(colon + 2, end - colon - 2);
}

void print_machine(const std::string& dir) {
  utsname name{};
  ::uname(&name);
  const auto memory = split_words(read_file("/proc/meminfo").substr(0, 100));
  fmt::print("{}, {} CPUs, {} GiB, Linux {}, store in {}\n\n", cpu_model(),
             std::thread::hardware_concurrency(), (parse_u64(memory.at(1)).value_or(0) + (1 << 19)) >> 20,
             name.release, dir);
}

void print_table(const std::vector<Row>& table) {
  fmt::print("| what | measured | beside | ratio | goal |\n| --- | --- | --- | --- | --- |\n");
  for (const Row& r : table)
    fmt::print("| {} | {} | {} | {} | {} |\n", r.what, r.measured, r.floor, r.ratio, r.goal);
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const auto& list : {checkpoint_cases(), incremental_cases(), restore_cases(), file_cases(), store_cases(),
                           tree_cases()}) {
    cases.insert(cases.end(), list.begin(), list.end());
  }
  return cases;
}

void measure(const Settings& settings) {
  const WorkDir work(settings.dir);
  std::vector<Row> table;
  {
    Mount mount(settings.ckptfs, work.path());
    Context context{mount, work.path(), settings.quick, settings.large, table};
    uint64_t peak = 0;
    for (const Case& c : all_cases()) {
      if (!settings.only.empty() && std::ranges::find(settings.only, c.name) == settings.only.end()) continue;
      fmt::print(stderr, "{} ...\n", c.name);
      peak = std::max(peak, mount.peak_memory());
      c.run(context);
      peak = std::max(peak, mount.peak_memory());
    }
    table.push_back({"peak memory of ckptfs", show_size(peak), "", "", "256 MiB beyond RocksDB's caches"});
  }
  print_machine(settings.dir);
  print_table(table);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Settings settings;
    settings.ckptfs = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "ckptfs";
    CLI::App app("Measures ckptfs on a mount of its own, each number beside the machine's own floor",
                 "ckpt-bench");
    std::vector<std::string> names;
    for (const Case& c : all_cases()) names.push_back(c.name);
    app.add_flag("--quick", settings.quick, "Smaller sizes, one round: does it work, not how fast");
    app.add_flag("--large", settings.large, "4 GiB too, where 1 GiB is the rule");
    app.add_option("--only", settings.only, fmt::format("Of: {}", fmt::join(names, ", ")))
        ->check(CLI::IsMember(names));
    app.add_option("--dir", settings.dir, "Where the store and the plain files are put")
        ->capture_default_str()
        ->check(CLI::ExistingDirectory);
    app.add_option("--ckptfs", settings.ckptfs, "The program to measure")->check(CLI::ExistingFile);
    CLI11_PARSE(app, argc, argv);
    measure(settings);
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "ckpt-bench: {}\n", e.what());
    return 1;
  }
}
