// Programs that nobody here wrote: what they put out in the end equals what an undisturbed run puts out.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <random>

#include "program.h"

namespace ckpt_test {
namespace {

/// A program at work in a directory. Its stdout and stderr are files there, and its files "progress" or "stdout" tell
/// how far it has come.
struct Case {
  const char* name;
  std::vector<std::string> command;
  /// Files it needs.
  void (*prepare)(const std::string& directory);
  /// How far it is, 0 to 100.
  int (*progress)(const std::string& directory);
  /// For one that waits for input: what makes it go on after the last checkpoint.
  void (*feed)(const std::string& directory) = nullptr;
};

int written_progress(const std::string& directory) { return atoi(read_file(directory + "/progress").c_str()); }

void prepare_python(const std::string& directory) {
  write_file(directory + "/main.py", R"(
import hashlib, os, random, threading, time
steps, digests, lock, done = 80, {}, threading.Lock(), [0]
def work(who):
    random_numbers = random.Random(who)
    digest = hashlib.sha256()
    data = bytearray(300000)
    kept = {}
    for step in range(steps):
        for i in range(300):
            data[random_numbers.randrange(len(data))] = random_numbers.randrange(256)
        digest.update(data)
        kept[step] = digest.hexdigest()
        time.sleep(0.01)
        while any(done[0] * 100 // (4 * steps) >= p and os.path.exists(f'hold-{p}') for p in range(0, 100, 5)):
            time.sleep(0.005)
        with lock:
            done[0] += 1
            with open('progress.new', 'w') as f:
                f.write(str(done[0] * 100 // (4 * steps)))
            os.replace('progress.new', 'progress')
    digests[who] = ''.join(kept[s][:8] for s in sorted(kept))
threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
for t in threads: t.start()
for t in threads: t.join()
for who in sorted(digests): print(who, digests[who])
)");
}

void prepare_perl(const std::string& directory) {
  std::mt19937 random(1);
  std::string text;
  while (text.size() < 4'000'000) {
    text += "word" + std::to_string(random() % 5000);
    text += random() % 9 ? ' ' : '\n';
  }
  write_file(directory + "/input", text);
  write_file(directory + "/main.pl", R"(
use strict; use warnings; use Digest::SHA;
my ($size, %count, $lines) = (-s 'input');
my $digest = Digest::SHA->new(256);
open my $in, '<', 'input' or die;
while (my $line = <$in>) {
  $digest->add($line);
  $count{$_}++ for split ' ', $line;
  next if ++$lines % 1000;
  printf "%d lines, %d words\n", $lines, scalar keys %count;
  my $percent = int(tell($in) * 100 / $size);
  do { select undef, undef, undef, 0.02 } while grep { $percent >= $_ && -e "hold-$_" } map { $_ * 5 } 0 .. 19;
  open my $out, '>', 'progress.new' or die;
  print $out $percent;
  close $out;
  rename 'progress.new', 'progress' or die;
}
print "$_ $count{$_}\n" for sort keys %count;
print $digest->hexdigest, "\n";
)");
}

void prepare_sqlite(const std::string& directory) {
  mkfifo((directory + "/stdin").c_str(), 0600);
}

/// sqlite3 has done what it was given so far when its first answer is there; the transaction is open.
int sqlite_progress(const std::string& directory) {
  static const char* const beginning =
      "PRAGMA journal_mode = DELETE;\n"
      "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT);\n"
      "INSERT INTO t SELECT value, hex(value * 7919) FROM generate_series(1, 1000);\n"
      "BEGIN IMMEDIATE;\n"
      "INSERT INTO t SELECT value, hex(value * 104729) FROM generate_series(1001, 50000);\n"
      "DELETE FROM t WHERE a % 3 = 0;\n"
      "SELECT 'in the transaction', count(*) FROM t;\n";
  if (!exists(directory + "/fed")) {
    write_file(directory + "/stdin", beginning);
    write_file(directory + "/fed", "");
  }
  return read_file(directory + "/stdout").find("in the transaction") != std::string::npos ? 100 : 0;
}

void feed_sqlite(const std::string& directory) {
  write_file(directory + "/stdin",
             "INSERT INTO t VALUES (1000000, 'after');\n"
             "COMMIT;\n"
             "SELECT count(*), sum(a), max(b) FROM t;\n"
             "PRAGMA integrity_check;\n"
             ".quit\n");
}

void prepare_xz(const std::string& directory) {
  std::mt19937_64 random(2);
  std::vector<std::string> words(5000);
  for (std::string& word : words) {
    for (size_t length = 2 + random() % 10; word.size() < length;) word += static_cast<char>('a' + random() % 26);
    word += ' ';
  }
  std::string text;
  text.reserve(60'000'100);
  while (text.size() < 60'000'000) text += words[random() % words.size()];
  write_file(directory + "/input", text);
}

int xz_progress(const std::string& directory) {
  struct stat st = {};
  stat((directory + "/stdout").c_str(), &st);
  return static_cast<int>(std::min<long>(100, st.st_size / 200'000));
}

void prepare_node(const std::string& directory) {
  write_file(directory + "/main.js", R"(
const crypto = require('crypto'), fs = require('fs');
const {Worker, isMainThread, parentPort, workerData} = require('worker_threads');
const steps = 100, percents = [...Array(20).keys()].map(i => i * 5);
if (isMainThread) {
  let done = 0, ticks = 0;
  const results = {};
  const timer = setInterval(() => { ++ticks; }, 10);
  const workers = [0, 1, 2].map(who => new Promise((resolve, reject) => {
    const worker = new Worker(__filename, {workerData: who});
    worker.on('message', message => {
      if (message.step === undefined) { results[who] = message.digest; resolve(); return; }
      fs.writeFileSync('progress.new', String(Math.floor(++done * 100 / (3 * steps))));
      fs.renameSync('progress.new', 'progress');
    });
    worker.on('error', reject);
  }));
  Promise.all(workers).then(async () => {
    clearInterval(timer);
    const text = await fs.promises.readFile(__filename);
    console.log(JSON.stringify(results), text.length, ticks > 0);
  });
} else {
  let digest = String(workerData), step = 0, kept = [];
  const held = () => percents.some(p => step * 100 / steps >= p && fs.existsSync('hold-' + p));
  const work = () => {
    if (held()) return setTimeout(work, 5);
    for (let i = 0; i < 1500; ++i) digest = crypto.createHash('sha256').update(digest).digest('hex');
    kept = kept.slice(-50).concat([...digest].map(c => ({c, step})));
    parentPort.postMessage({step});
    if (++step < steps) setTimeout(work, 5);
    else parentPort.postMessage({digest: digest + kept.map(k => k.c).join('')});
  };
  work();
}
)");
}

void prepare_java(const std::string& directory) {
  write_file(directory + "/Main.java", R"(
import java.nio.file.*;
import java.security.MessageDigest;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;

public class Main {
  static final int STEPS = 150, THREADS = 20;
  static final AtomicInteger done = new AtomicInteger();

  static boolean held(int percent) {
    for (int p = 0; p < 100; p += 5) if (percent >= p && Files.exists(Path.of("hold-" + p))) return true;
    return false;
  }

  static String work(int who) throws Exception {
    Random random = new Random(who);
    MessageDigest digest = MessageDigest.getInstance("SHA-256");
    Map<Integer, byte[]> kept = new HashMap<>();
    for (int step = 0; step < STEPS; ++step) {
      for (int i = 0; i < 40; ++i) {
        byte[] garbage = new byte[5000];
        random.nextBytes(garbage);
        kept.put(random.nextInt(30), garbage);
      }
      for (int i = 0; i < 30; ++i) if (kept.containsKey(i)) digest.update(kept.get(i));
      do Thread.sleep(10); while (held(done.get() * 100 / (STEPS * THREADS)));
      done.incrementAndGet();
    }
    return HexFormat.of().formatHex(digest.digest());
  }

  public static void main(String[] arguments) throws Exception {
    ExecutorService pool = Executors.newFixedThreadPool(THREADS);
    List<Future<String>> results = new ArrayList<>();
    for (int i = 0; i < THREADS; ++i) {
      final int who = i;
      results.add(pool.submit(() -> work(who)));
    }
    while (done.get() < STEPS * THREADS) {
      Files.writeString(Path.of("progress.new"), Integer.toString(done.get() * 100 / (STEPS * THREADS)));
      Files.move(Path.of("progress.new"), Path.of("progress"), StandardCopyOption.ATOMIC_MOVE);
      Thread.sleep(20);
    }
    for (Future<String> result : results) System.out.println(result.get());
    pool.shutdown();
    System.gc();
    System.out.println("collected");
  }
}
)");
  const CommandResult result = run({"javac", "-d", directory, directory + "/Main.java"});
  EXPECT_EQ(result.status, 0) << result.output;
}

const Case cases[] = {
    {"python3", {"python3", "main.py"}, prepare_python, written_progress},
    {"perl", {"perl", "main.pl"}, prepare_perl, written_progress},
    {"sqlite3", {"sqlite3", "data.db"}, prepare_sqlite, sqlite_progress, feed_sqlite},
    {"xz", {"xz", "-T2", "-0", "--block-size=2MiB", "-c", "input"}, prepare_xz, xz_progress},
    {"node", {"node", "main.js"}, prepare_node, written_progress},
    {"java", {"java", "-Xmx64m", "-cp", ".", "Main"}, prepare_java, written_progress},
};

class RealPrograms : public testing::TestWithParam<Case> {
 protected:
  std::string make_directory(const char* name) {
    const std::string directory = scratch_.path() + "/" + name;
    std::filesystem::create_directory(directory);
    GetParam().prepare(directory);
    return directory;
  }

  /// What an undisturbed run puts out.
  std::string undisturbed() {
    const std::string directory = make_directory("undisturbed");
    Program program(GetParam().command, directory, true);
    reach(program, directory, GetParam().feed ? 100 : 0);
    return finish(program, directory);
  }

  /// It goes no further than a while beyond these, in percent, before let_on() of each: on a busy machine it might else have
  /// ended before it is looked at again. xz alone cannot be held.
  static void hold(const std::string& directory, std::initializer_list<int> progresses) {
    for (const int progress : progresses) write_file(hold_file(directory, progress), "");
  }
  static void let_on(const std::string& directory, int progress) {
    EXPECT_EQ(unlink(hold_file(directory, progress).c_str()), 0);
  }
  static std::string hold_file(const std::string& directory, int progress) {
    return directory + "/hold-" + std::to_string(progress + 20);
  }

  void reach(const Program& program, const std::string& directory, int progress) {
    const bool there = wait_until([&] { return !program.running() || GetParam().progress(directory) >= progress; },
                                  std::chrono::seconds(60));
    ASSERT_TRUE(there) << "the program does not get on; " << GetParam().progress(directory) << " of " << progress;
    ASSERT_TRUE(program.running()) << "the program has ended too early: " << read_file(directory + "/stderr");
  }

  std::string finish(Program& program, const std::string& directory) {
    if (GetParam().feed) GetParam().feed(directory);
    EXPECT_TRUE(program.wait_end(std::chrono::seconds(60)))
        << "the program does not end; state " << program.state() << ", " << GetParam().progress(directory) << " of 100";
    const std::string errors = read_file(directory + "/stderr");
    EXPECT_EQ(errors, "");
    return read_file(directory + "/stdout");
  }

  /// Without printing megabytes.
  static void expect_same(const std::string& output, const std::string& expected) {
    size_t at = 0;
    while (at < output.size() && at < expected.size() && output[at] == expected[at]) ++at;
    EXPECT_TRUE(output == expected) << "the output of " << output.size() << " bytes, which should be "
                                    << expected.size() << ", differs from byte " << at << " on: "
                                    << output.substr(at, 100) << ", not " << expected.substr(at, 100);
  }

  TemporaryDirectory scratch_;
};

TEST_P(RealPrograms, go_on) {
  const std::string expected = undisturbed();
  ASSERT_FALSE(expected.empty());
  Mount mount;
  ASSERT_TRUE(mount.mounted());
  const std::string directory = make_directory("disturbed");
  hold(directory, {20, 50, 55});
  Program program(GetParam().command, directory, true);
  for (int progress : {20, 50, 55}) {
    ASSERT_NO_FATAL_FAILURE(reach(program, directory, progress));
    const Outcome outcome = mount.command(std::to_string(program.pid()));
    ASSERT_EQ(outcome.error, 0) << strerror(outcome.error) << "\n" << outcome.sentence;
    let_on(directory, progress);
  }
  expect_same(finish(program, directory), expected);
}

TEST_P(RealPrograms, resume) {
  const std::string expected = undisturbed();
  ASSERT_FALSE(expected.empty());
  Mount mount;
  ASSERT_TRUE(mount.mounted());
  const std::string directory = make_directory("disturbed");
  hold(directory, {25, 60});
  Program program(GetParam().command, directory, true);
  const std::string image = std::to_string(program.pid());
  // The second time it is an already resumed process that is checkpointed.
  for (int progress : {25, 60}) {
    ASSERT_NO_FATAL_FAILURE(reach(program, directory, progress));
    // Ended at the checkpoint: what it writes must not go on meanwhile.
    const Outcome outcome = mount.command(image + " exit");
    ASSERT_EQ(outcome.error, 0) << strerror(outcome.error) << "\n" << outcome.sentence;
    ASSERT_TRUE(program.wait_end()) << "the program is still there after exit, state " << program.state();
    const std::string copy = scratch_.path() + "/" + std::to_string(progress) + "/" + image;
    std::filesystem::create_directories(scratch_.path() + "/" + std::to_string(progress));
    ASSERT_TRUE(archive(mount, image, copy));
    const CommandResult removed = run({"rm", "-r", mount.path("images/" + image)});
    ASSERT_EQ(removed.status, 0) << removed.output;
    ASSERT_EQ(ckpt_test::resume(mount, copy), "");
    program.resumed();
    let_on(directory, progress);
  }
  expect_same(finish(program, directory), expected);
}

INSTANTIATE_TEST_SUITE_P(, RealPrograms, testing::ValuesIn(cases),
                         [](const auto& program) { return std::string(program.param.name); });

}  // namespace
}  // namespace ckpt_test
