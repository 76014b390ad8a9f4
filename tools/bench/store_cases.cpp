// Opening a store that holds much. It is made of index rows alone, which is all that an opening reads: a row for each
// pack of 256 pages, with their digests.
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <random>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/base/record.h"
#include "engine/process/proc_status.h"
#include "engine/store/database.h"
#include "engine/store/store.h"
#include "tools/bench/bench.h"

namespace ckpt::bench {

namespace {

struct Opened {
  double time = 0;           ///< seconds
  uint64_t pages = 0;
  uint64_t index_bytes = 0;
  uint64_t resident = 0;     ///< bytes, of the whole process
};

/// Runs `work` in a child, for RocksDB's threads do not outlive a fork, and returns what it gives.
template <typename Result, typename Work>
Result in_child(const Work& work) {
  int ends[2];
  if (::pipe(ends) != 0) fail_errno("pipe");
  const UniqueFd from(ends[0]);
  UniqueFd to(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) fail_errno("fork");
  if (child == 0) {
    try {
      const Result result = work();
      if (::write(to.get(), &result, sizeof result) == sizeof result) ::_exit(0);
    } catch (const std::exception& e) {
      fmt::print(stderr, "ckpt-bench: {}\n", e.what());
    }
    ::_exit(1);
  }
  to.reset();
  Result result{};
  const bool whole = ::read(from.get(), &result, sizeof result) == sizeof result;
  ::waitpid(child, nullptr, 0);
  if (!whole) fail(EIO, "a measurement in a process of its own failed");
  return result;
}

uint64_t write_rows(const std::string& dir, uint64_t packs) {
  Database db(dir);
  std::mt19937_64 random(packs);
  std::vector<Digest> digests(kPagesPerBlock);
  rocksdb::WriteOptions options;
  options.disableWAL = true;
  for (uint64_t pack = 1; pack <= packs; ++pack) {
    for (Digest& digest : digests) {
      for (size_t at = 0; at < digest.bytes.size(); at += 8) {
        const uint64_t word = random();
        std::memcpy(&digest.bytes[at], &word, sizeof word);
      }
    }
    check_status(db->Put(options, db.index, pack_key(pack), encode_row(digests, {})), "{}", dir);
  }
  db.flush();
  return packs;
}

Opened open_once(const std::string& dir) {
  Opened opened;
  std::unique_ptr<Store> store;
  opened.time = seconds([&] { store = open_rocksdb_store(dir); });
  const StoreStats stats = store->stats();
  opened.pages = stats.unique_pages;
  opened.index_bytes = stats.index_bytes;
  opened.resident = parse_u64(split_words(status_field(read_file("/proc/self/status"), "VmRSS")).at(0)).value_or(0) * 1024;
  return opened;
}

void opening(Context& ctx) {
  const std::string dir = ctx.dir + "/large-store";
  for (const uint64_t size : {4 * kGiB, 64 * kGiB, 1024 * kGiB}) {
    if (ctx.quick && size > 4 * kGiB) break;
    std::filesystem::create_directory(dir);
    in_child<uint64_t>([&] { return write_rows(dir, size / kBlockSize); });
    const Opened opened = in_child<Opened>([&] { return open_once(dir); });
    std::filesystem::remove_all(dir);
    const auto pages = static_cast<double>(opened.pages);
    ctx.table.push_back({fmt::format("opening a store of {} of unique pages", show_size(size)), show_ms(opened.time),
                         "memory of all " + show_size(opened.resident),
                         fmt::format("{:.0f} ns and {:.1f} bytes a page", opened.time * 1e9 / pages,
                                     static_cast<double>(opened.index_bytes) / pages),
                         "32 bytes a page"});
  }
}

}  // namespace

std::vector<Case> store_cases() { return {{"opening", opening}}; }

}  // namespace ckpt::bench
