// A process that commits, renames, deletes and collects is killed at random instants; what it had been told to be
// done must be there afterwards, whole, and nothing else.
//
// RocksDB's threads do not come along through fork(2), so the process that forks never opens a store. GoogleTest runs
// suites called ...DeathTest first, before others do.
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "engine/base/fd.h"
#include "tests/unit/store_fixture.h"

namespace ckpt {
namespace {

// Image names and the seeds of their contents.
using State = std::map<std::string, uint64_t>;

std::vector<std::byte> content_of(uint64_t seed) {
  // Some small enough for the log, some in table files; half of each shared with others.
  std::vector<std::byte> data = noise((seed % 3 == 0 ? 12 : 1) * kBlockSize + seed % 5000, seed);
  const auto shared = noise(2 * kBlockSize, seed % 3);
  data.insert(data.end(), shared.begin(), shared.end());
  return data;
}

void save_image(Store& store, const std::string& name, uint64_t seed) {
  const auto builder = store.begin_image("test");
  add_file(*builder, "data", content_of(seed));
  builder->put("seed", std::to_string(seed));
  builder->write_manifest(header(1));
  builder->commit(name);
}

// One step, of the store and of the state that is expected of it.
struct Step {
  enum { save, remove, rename, discard, collect } kind;
  std::string name, to;
  uint64_t seed = 0;

  static Step random(std::mt19937_64& random, const State& state, uint64_t number) {
    const uint64_t dice = random() % 10;
    if (dice == 0) return {collect, "", "", 0};
    if (dice == 1) return {discard, "", "", number};
    if (dice < 6 && state.size() > 2) {
      auto it = state.begin();
      std::advance(it, random() % state.size());
      if (dice == 2) return {rename, it->first, fmt::format("r{}", number), 0};
      return {remove, it->first, "", 0};
    }
    return {save, fmt::format("i{}", number), "", number};
  }
  void apply(State& state) const {
    if (kind == save) state[name] = seed;
    if (kind == rename) state[to] = state.at(name);
    if (kind == rename || kind == remove) state.erase(name);
  }
  void apply(Store& store) const {
    if (kind == save) save_image(store, name, seed);
    if (kind == rename) store.rename_image(name, to);
    if (kind == remove) store.delete_image(name);
    if (kind == collect) store.collect_garbage(false);
    if (kind == discard) add_file(*store.begin_image("test"), "data", content_of(seed * 3));
  }
};

// The child: opens, says so, and says after each step that it is done.
[[noreturn]] void work(const std::string& dir, State state, uint64_t seed, int report) {
  try {
    const auto store = open_rocksdb_store(dir);
    std::mt19937_64 random(seed);
    for (uint64_t number = seed * 1000;; ++number) {
      const Step step = Step::random(random, state, number);
      step.apply(state);
      step.apply(*store);
      write_all(report, "x", "pipe");
    }
  } catch (const std::exception& e) {
    fprintf(stderr, "child: %s\n", e.what());
    _exit(1);
  }
}

void check_state(Store& store, const State& state) {
  State found;
  for (const ImageInfo& info : store.images()) {
    const auto image = store.open_image(info.name);
    verify_image(*image);
    found[info.name] = std::stoull(image->read("seed"));
    if (image->read("data") != text(content_of(found[info.name]))) fail(EIO, "{}: another content", info.name);
  }
  if (found != state) fail(EIO, "there are {} images instead of {}, or other ones", found.size(), state.size());
  const CheckResult check = store.check(Store::CheckLevel::full);
  if (!check.damage.empty()) fail(EIO, "{}", check.damage[0]);
}

// Which of the two states the store is in: 0, 1, or 2 for neither.
[[noreturn]] void judge(const std::string& dir, const State& before, const State& after) {
  try {
    const auto store = open_rocksdb_store(dir);
    const auto images = store->images();
    const bool second = images.size() != before.size() ||
                        !std::all_of(images.begin(), images.end(), [&](auto& i) { return before.contains(i.name); });
    for (int round = 0; round < 2; ++round) {
      check_state(*store, second ? after : before);
      store->collect_garbage(false);
    }
    _exit(second ? 1 : 0);
  } catch (const std::exception& e) {
    fprintf(stderr, "after the crash: %s\n", e.what());
    _exit(2);
  }
}

template <typename F>
pid_t in_child(F&& f) {
  const pid_t child = fork();
  if (child == 0) {
    f();
    _exit(99);
  }
  return child;
}

int wait_for(pid_t child) {
  int status = -1;
  waitpid(child, &status, 0);
  return status;
}

TEST(CrashDeathTest, AtAnyInstantLeavesWholeImagesOnly) {
  std::string name = std::filesystem::temp_directory_path() / "ckpt-crash-XXXXXX";
  const std::filesystem::path dir = mkdtemp(name.data());
  State state;
  std::mt19937_64 chance(std::random_device{}());
  for (uint64_t round = 1; round <= 8 && !testing::Test::HasFailure(); ++round) {
    int pipe_fds[2];
    ASSERT_EQ(pipe(pipe_fds), 0);
    const pid_t child = in_child([&] { work(dir / "store", state, round, pipe_fds[1]); });
    close(pipe_fds[1]);
    const UniqueFd reports(pipe_fds[0]);
    // After some steps, in the middle of the next.
    uint64_t steps = 0;
    char byte;
    for (const uint64_t wanted = chance() % 12; steps < wanted && read(reports.get(), &byte, 1) == 1;) ++steps;
    poll(nullptr, 0, static_cast<int>(chance() % 60));
    kill(child, SIGKILL);
    ASSERT_TRUE(WIFSIGNALED(wait_for(child))) << "the child ended by itself";
    while (read(reports.get(), &byte, 1) == 1) ++steps;
    // Replay what was done; the step under way may have happened or not.
    std::mt19937_64 random(round);
    uint64_t number = round * 1000;
    for (uint64_t i = 0; i < steps; ++i) Step::random(random, state, number++).apply(state);
    State next = state;
    Step::random(random, state, number).apply(next);
    const int verdict = WEXITSTATUS(wait_for(in_child([&] { judge(dir / "store", state, next); })));
    ASSERT_LT(verdict, 2);
    if (verdict == 1) state = next;
  }
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace ckpt
