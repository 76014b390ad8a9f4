// Trees of real processes at the mount: a shell whose child asks for its checkpoint, cores of descendants, the foreground.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <filesystem>
#include <memory>
#include <sstream>

#include "program.h"

namespace ckpt_test {
namespace {

namespace fs = std::filesystem;

class Trees : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(mount_.mounted()); }

  std::string file(const std::string& name) const { return read_file(directory_ + "/" + name); }

  /// A script of bash in a directory of its own, with $mnt for the mount.
  std::unique_ptr<Program> script(const std::string& text) {
    fs::create_directory(directory_);
    write_file(directory_ + "/script", "mnt=" + mount_.path() + "\n" + text);
    return std::make_unique<Program>(std::vector<std::string>{"bash", "script"}, directory_, true);
  }

  void expect_checkpoint(const std::string& line) {
    const Outcome outcome = mount_.command(line);
    ASSERT_EQ(outcome.error, 0) << line << ": " << outcome.sentence;
  }

  Mount mount_;
  TemporaryDirectory scratch_;
  const std::string directory_ = scratch_.path() + "/program";
};

/// Whoever asks is a child of the process that is to be stopped: /bin/echo, a subshell, a grandchild.
class Askers : public Trees, public testing::WithParamInterface<const char*> {};

TEST_P(Askers, are_answered_before_the_stop) {
  auto program = script("sleep 1000 & child=$!\n" + std::string(GetParam()) +
                        "\necho after $? >> lines\nwhile [ ! -e end ]; do read -t 0.05 <> never; done\n"
                        "kill $child && wait $child; echo end $? >> lines\n");
  mkfifo((directory_ + "/never").c_str(), 0600);
  const std::string image = std::to_string(program->pid());
  ASSERT_TRUE(wait_until([&] { return exists(mount_.path("images/" + image + "/manifest")); }))
      << file("stderr") << read_file(mount_.path("ctl"));
  ASSERT_TRUE(wait_until([&] { return file("lines") == "after 0\n"; })) << file("lines");
  move_through_archive(mount_, *program, scratch_.path());
  write_file(directory_ + "/end", "");
  EXPECT_TRUE(program->wait_end());
  const std::string lines = file("lines");
  // 143: the child, that the shell still knows, by its SIGTERM.
  EXPECT_TRUE(lines == "after 0\nend 143\n" || lines == "after 0\nafter 0\nend 143\n") << lines;
}

INSTANTIATE_TEST_SUITE_P(, Askers,
                         testing::Values("/bin/echo $$ > $mnt/ctl", "(echo $$ > $mnt/ctl)", "(true; /bin/echo $$ > $mnt/ctl)",
                                         "echo $$ | cat > $mnt/ctl"),
                         [](const auto& asker) { return std::to_string(asker.index); });

TEST_F(Trees, a_core_for_each_process) {
  auto program = script("sleep 1000 & sleep 1001 & touch ready; wait\n");
  ASSERT_TRUE(wait_until([&] { return exists(directory_ + "/ready"); }));
  const std::string image = std::to_string(program->pid());
  // Until both are what they are to be.
  size_t cores = 0;
  ASSERT_TRUE(wait_until([&] {
    if (mount_.command(image).error != 0) return false;
    cores = 0;
    const CommandResult commands = run({"sh", "-c", "cat $0/children/*/cmdline | tr '\\0' ' '", mount_.path("images/" + image)});
    return commands.output.find("sleep 1000 ") != std::string::npos && commands.output.find("sleep 1001 ") != std::string::npos;
  }));
  for (const auto& child : fs::directory_iterator(mount_.path("images/" + image + "/children"))) {
    const std::string core = mount_.path("cores/" + image + "." + child.path().filename().string());
    const CommandResult gdb = run({"gdb", "-nx", "-batch", "-ex", "bt", "-c", core, "/usr/bin/sleep"});
    EXPECT_EQ(gdb.status, 0) << gdb.output;
    EXPECT_NE(gdb.output.find("nanosleep"), std::string::npos) << gdb.output;
    ++cores;
  }
  EXPECT_EQ(cores, 2u);
  const CommandResult list = run({"ls", mount_.path("cores")});
  EXPECT_NE(list.output.find(image + "."), std::string::npos) << list.output;
}

TEST_F(Trees, a_thousand_processes) {
  fs::create_directory(directory_);
  CheckProgram program("tree_hundred", directory_, {"110"});  // 1 + 9 + 9 * 110
  ASSERT_TRUE(program.wait_ready());
  const std::string name = std::to_string(program.pid());
  expect_checkpoint(name);
  program.kill_and_reap();
  // Not by way of an archive, which would have forty thousand files.
  const Outcome outcome = mount_.command("restore " + name);
  ASSERT_EQ(outcome.error, 0) << outcome.sentence;
  program.resumed();
  program.go();
  EXPECT_EQ(program.wait_result(), "ok");
}

/// Ids of the System V shared memory segments that a process has made ("key shmid perms size cpid ...").
std::vector<int> segments_made_by(pid_t pid) {
  std::istringstream lines(read_file("/proc/sysvipc/shm"));
  std::vector<int> ids;
  std::string line;
  for (std::getline(lines, line); std::getline(lines, line);) {
    std::istringstream words(line);
    long key = 0, id = 0, mode = 0, size = 0, maker = 0;
    if (words >> key >> id >> mode >> size >> maker && maker == pid) ids.push_back(static_cast<int>(id));
  }
  return ids;
}

TEST_F(Trees, a_segment_that_we_have_attached_too_is_refused) {
  fs::create_directory(directory_);
  CheckProgram program("tree_sysv_memory", directory_);
  ASSERT_TRUE(program.wait_ready());
  const std::vector<int> segments = segments_made_by(program.pid());
  ASSERT_EQ(segments.size(), 3u);
  const void* const ours = shmat(segments.back(), nullptr, SHM_RDONLY);
  ASSERT_NE(ours, reinterpret_cast<void*>(-1));
  const Outcome refused = mount_.command(std::to_string(program.pid()));
  EXPECT_EQ(refused.error, EOPNOTSUPP);
  const std::string what = "System V shared memory segment " + std::to_string(segments.back());
  EXPECT_NE(refused.sentence.find(what), std::string::npos) << refused.sentence;
  ASSERT_EQ(shmdt(ours), 0);
  expect_checkpoint(std::to_string(program.pid()));
  program.go();
  EXPECT_EQ(program.wait_result(), "ok");
}

/// A program that does something in several processes, and whose outcome is known.
struct Work {
  const char* name;
  const char* prepare;           ///< a shell script that is run before, in the directory
  const char* script;            ///< the program; writes `progress` when it is in the middle, and `out` in the end
};

class Works : public Trees, public testing::WithParamInterface<Work> {
 protected:
  std::unique_ptr<Program> start() {
    fs::create_directory(directory_);
    const CommandResult prepared = run({"sh", "-c", "cd \"$1\" && eval \"$2\"", "sh", directory_, GetParam().prepare});
    EXPECT_EQ(prepared.status, 0) << prepared.output;
    write_file(directory_ + "/script", GetParam().script);
    return std::make_unique<Program>(std::vector<std::string>{"bash", "script"}, directory_, true);
  }
  /// Waits for the end of an undisturbed run, and begins anew.
  std::string undisturbed() {
    auto program = start();
    write_file(directory_ + "/go", "");
    EXPECT_TRUE(program->wait_end(std::chrono::seconds(60))) << file("stderr");
    const std::string out = file("out");
    program.reset();
    fs::remove_all(directory_);
    return out;
  }
  void wait_middle(const Program& program) {
    ASSERT_TRUE(wait_until([&] { return exists(directory_ + "/progress") || !program.running(); }));
    ASSERT_TRUE(program.running()) << "it has ended too early: " << file("stderr");
  }
};

TEST_P(Works, end_well_through_an_archive) {
  const std::string expected = undisturbed();
  ASSERT_FALSE(expected.empty());
  auto program = start();
  ASSERT_NO_FATAL_FAILURE(wait_middle(*program));
  const std::string image = std::to_string(program->pid());
  ASSERT_NO_FATAL_FAILURE(expect_checkpoint(image));
  ASSERT_NO_FATAL_FAILURE(expect_checkpoint(image + " exit"));
  ASSERT_NO_FATAL_FAILURE(move_through_archive(mount_, *program, scratch_.path()));
  write_file(directory_ + "/go", "");
  EXPECT_TRUE(program->wait_end(std::chrono::seconds(60))) << "it does not end; state " << program->state();
  EXPECT_EQ(file("out"), expected) << file("stderr");
}

const Work works[] = {
    // Each waits in the middle for `go`.
    {"a_pipeline", "",
     "{ for ((i = 0; i < 4000; ++i)); do echo $((i * 7919 % 13)); [ $i != 2000 ] || { > progress; while [ ! -e go ]; "
     "do sleep 0.02; done; }; done; } | sort -n | uniq -c | tee copy > out.new; mv out.new out"},
    {"make",
     "for i in 1 2 3 4 5 6 7 8; do echo \"int f$i(void) { return $i; }\" > f$i.c; done;"
     "{ for i in 1 2 3 4 5 6 7 8; do echo \"int f$i(void);\"; done; echo '#include <stdio.h>'; echo 'int main(void) {"
     " printf(\"%d\", f1() + f2() * f3() + f4() * f5() + f6() * f7() + f8()); }'; } > main.c;"
     "printf 'OBJECTS = main.o f1.o f2.o f3.o f4.o f5.o f6.o f7.o f8.o\\nout: program\\n\\t./program > $@\\n"
     "program: $(OBJECTS)\\n\\tcc -o $@ $^\\n%%.o: %%.c\\n\\t> progress; while [ ! -e go ]; do sleep 0.05; "
     "done; cc -c $<\\n' > Makefile",
     "make -j4 >&2"},
    {"python_multiprocessing",
     "cat > main.py <<'END'\n"
     "import multiprocessing as mp, os, time\n"
     "def work(n, total, queue):\n"
     "    for i in range(100):\n"
     "        if i == 50:\n"
     "            open('progress', 'w').close()\n"
     "            while not os.path.exists('go'): time.sleep(0.01)\n"
     "        with total.get_lock(): total.value += i\n"
     "        queue.put((n, i))\n"
     "if __name__ == '__main__':\n"
     "    mp.set_start_method('fork')\n"
     "    total, queue = mp.Value('l', 0), mp.Queue()\n"
     "    workers = [mp.Process(target=work, args=(n, total, queue)) for n in range(4)]\n"
     "    for w in workers: w.start()\n"
     "    got = sorted(queue.get() for _ in range(400))\n"
     "    for w in workers: w.join()\n"
     "    print(total.value, len(set(got)), [w.exitcode for w in workers], file=open('out.new', 'w'))\n"
     "    os.rename('out.new', 'out')\n"
     "END\n",
     "python3 main.py"},
    {"a_shell_under_script",
     "cat > inner <<'END'\n"
     "stty rows 33 cols 77 -echoctl\n"
     "set -m\n"
     "sleep 1000 &\n"
     "(echo \"a job on $(tty | tr -d 0-9)\"; > progress; while [ ! -e go ]; do sleep 0.02; done; "
     "stty size; echo by its other name > /dev/tty; ps -o pgid= -o tpgid= $BASHPID | tr -s ' ' '\\n' | sort -u | wc -w)\n"
     "jobs; kill %1; wait %1; echo $?; stty -a | grep -o -e -echoctl\n"
     "END\n",
     "script -qec 'bash inner' typescript < /dev/null > shown; tr -d '\\r' < shown > out.new; mv out.new out"},
};

INSTANTIATE_TEST_SUITE_P(, Works, testing::ValuesIn(works), [](const auto& work) { return std::string(work.param.name); });

/// A refusal names the descendant, and nobody is disturbed.
TEST_F(Trees, a_refusal_names_the_descendant) {
  auto program = script("perl -e '$fd = syscall(323, 1); open F, \">\", \"made\" and print F \"$$ $fd\"; close F; sleep 1000' &\n"
                        "n=0; while :; do n=$((n+1)); echo $n > count; sleep 0.01; done\n");
  ASSERT_TRUE(wait_until([&] { return !file("made").empty(); }));
  const std::string made = file("made");
  const Outcome outcome = mount_.command(std::to_string(program->pid()));
  EXPECT_EQ(outcome.error, EOPNOTSUPP) << outcome.sentence;
  const std::string named = made.substr(0, made.find(' ')) + ": fd " + made.substr(made.find(' ') + 1) + ": ";
  EXPECT_NE(outcome.sentence.find(named), std::string::npos) << outcome.sentence << ", without " << named;
  EXPECT_TRUE(fs::is_empty(mount_.path("images")));
  const std::string count = file("count");
  EXPECT_TRUE(wait_until([&] { return file("count") != count; })) << "it does not go on";
}

/// A resumed process is where who resumed it is, and ctl says so.
TEST_F(Trees, a_control_group_that_has_gone_is_told) {
  const CommandResult found = run({"sh", "-c", "grep -m1 ' / .* - cgroup2 ' /proc/self/mountinfo | cut -d' ' -f5"});
  const std::string point = found.output.substr(0, found.output.find('\n')), group = point + "/ckpt-" + std::to_string(getpid());
  if (point.empty() || mkdir(group.c_str(), 0755) != 0) GTEST_SKIP() << "there are no control groups here";
  auto program = script("echo $$ > " + group + "/cgroup.procs && touch ready; while [ ! -e end ]; do sleep 0.05; done\n");
  EXPECT_TRUE(wait_until([&] { return exists(directory_ + "/ready"); })) << file("stderr");
  const std::string image = std::to_string(program->pid());
  expect_checkpoint(image + " exit");
  EXPECT_TRUE(program->wait_end());
  EXPECT_TRUE(wait_until([&] { return rmdir(group.c_str()) == 0; })) << strerror(errno);
  const Outcome outcome = mount_.command("restore " + image);
  ASSERT_EQ(outcome.error, 0) << outcome.sentence;
  program->resumed();
  EXPECT_NE(outcome.sentence.find("it is not in the control group /ckpt-" + std::to_string(getpid()) + " any more: "),
            std::string::npos)
      << outcome.sentence;
  EXPECT_EQ(read_file("/proc/" + image + "/cgroup"), read_file("/proc/self/cgroup"));
  write_file(directory_ + "/end", "");
  EXPECT_TRUE(program->wait_end());
}

}  // namespace
}  // namespace ckpt_test
