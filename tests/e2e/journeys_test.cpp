// What users do with a real process beyond one checkpoint and one cp: every tool that archives, commands of ctl,
// edited images, a shell that checkpoints itself, processes that use the mount themselves, several at once.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <thread>

#include "program.h"

namespace ckpt_test {
namespace {

namespace fs = std::filesystem;

class Journeys : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(mount_.mounted()); }

  std::unique_ptr<CheckProgram> start(const std::string& name) {
    const std::string directory = scratch_.path() + "/program" + std::to_string(++started_);
    fs::create_directory(directory);
    auto program = std::make_unique<CheckProgram>(name, directory);
    if (!program->wait_ready()) return nullptr;
    return program;
  }

  void checkpoint(const std::string& line) {
    const Outcome outcome = mount_.command(line);
    ASSERT_EQ(outcome.error, 0) << line << ": " << strerror(outcome.error) << "\n" << outcome.sentence;
  }

  /// Runs a shell command with $mnt, $out, $image and $bin set.
  void shell(const std::string& command, const std::string& image = {}) {
    const CommandResult result = run({"env", "mnt=" + mount_.path(), "out=" + scratch_.path(), "image=" + image,
                                      "bin=" CKPT_BIN_DIR, "bash", "-e", "-o", "pipefail", "-c", command});
    EXPECT_EQ(result.status, 0) << command << ":\n" << result.output;
    output_ = result.output;
  }

  void expect_ok(CheckProgram& program) {
    program.resumed();
    EXPECT_TRUE(program.running());
    program.go();
    EXPECT_EQ(program.wait_result(), "ok");
  }

  Mount mount_;
  TemporaryDirectory scratch_;
  std::string output_;
  int started_ = 0;
};

/// One way out of the mount and back into it.
struct Way {
  const char* name;
  const char* out;
  const char* back;
};

class Ways : public Journeys, public testing::WithParamInterface<Way> {};

TEST_P(Ways, archive_and_resume) {
  auto program = start("fd_deleted");
  ASSERT_TRUE(program);
  const std::string image = std::to_string(program->pid());
  ASSERT_NO_FATAL_FAILURE(checkpoint(image));
  program->kill_and_reap();
  shell(GetParam().out, image);
  shell("rm -r $mnt/images/$image", image);
  shell(GetParam().back, image);
  if (HasFailure()) {
    ADD_FAILURE() << read_file(mount_.path("restore/" + image + "/error")) << read_file(mount_.path("ctl"));
    return;
  }
  // Its name is free at once, also in the kernel's memory of names.
  EXPECT_FALSE(fs::exists(mount_.path("restore/" + image)));
  expect_ok(*program);
}

const Way ways[] = {
    {"cp_r", "cp -r $mnt/images/$image $out/", "cp -r $out/$image $mnt/restore/"},
    {"cp_a_renamed", "cp -a $mnt/images/$image $out/saved", "cp -a $out/saved $mnt/restore/"},
    {"tar", "tar -C $mnt/images -cf $out/t.tar $image", "tar -C $mnt/restore -xf $out/t.tar"},
    {"tar_zipped", "tar -C $mnt/images -cz $image > $out/t.tgz", "tar -C $mnt/restore -xzf $out/t.tgz"},
    {"rsync", "rsync -a $mnt/images/$image $out/", "rsync -a $out/$image $mnt/restore/"},
    {"rsync_in_place", "rsync -a $mnt/images/$image $out/", "rsync -a --inplace $out/$image $mnt/restore/"},
    {"manifest_first", "cp -a $mnt/images/$image $out/",
     "mkdir $mnt/restore/$image; cp -a $out/$image/manifest $mnt/restore/$image/; cd $out/$image;"
     "for f in *; do [ $f = manifest ] || cp -a $f $mnt/restore/$image/; done"},
    {"backwards", "cp -a $mnt/images/$image $out/",
     "cd $out/$image; find . ! -type d | sort -r | while read -r f; do mkdir -p $mnt/restore/$image/${f%/*};"
     "cp -a $f $mnt/restore/$image/$f; done"},
    {"cat_in_pieces", "cp -a $mnt/images/$image $out/",
     "cd $out/$image; find . ! -type d ! -name manifest | while read -r f; do mkdir -p $mnt/restore/$image/${f%/*};"
     "if [ -L $f ]; then cp -a $f $mnt/restore/$image/$f; else dd bs=7000 status=none < $f > $mnt/restore/$image/$f;"
     "fi; done; cat manifest > $mnt/restore/$image/manifest"},
    // Whoever had copied a part, in an order of his own, and copies all again: the image is complete in the middle of it.
    {"after_half_a_copy", "cp -a $mnt/images/$image $out/",
     "mkdir $mnt/restore/$image; cd $out/$image; cp -a --parents manifest vdso timers threads $mnt/restore/$image/;"
     "head -c 100 maps > $mnt/restore/$image/maps; cp -a $out/$image $mnt/restore/"},
    {"and_a_file_that_is_not_listed", "cp -a $mnt/images/$image $out/",
     "cd $out/$image; mkdir $mnt/restore/$image; touch zzz;"
     "cp -a --parents $(find . ! -type d ! -name zzz) zzz $mnt/restore/$image/"},
};

INSTANTIATE_TEST_SUITE_P(, Ways, testing::ValuesIn(ways), [](const auto& way) { return std::string(way.param.name); });

TEST_F(Journeys, what_comes_after_the_resume_is_compared) {
  auto program = start("umask");
  ASSERT_TRUE(program);
  const std::string image = std::to_string(program->pid());
  ASSERT_NO_FATAL_FAILURE(checkpoint(image));
  program->kill_and_reap();
  shell("cp -a $mnt/images/$image $out/; mkdir $mnt/restore/$image; cd $out/$image; "
        "cp -a --parents $(find . ! -type d ! -name maps) $mnt/restore/$image/; echo '# changed' >> process; "
        "! cp -a --parents maps vdso process $mnt/restore/$image/", image);
  EXPECT_NE(output_.find("Stale file handle"), std::string::npos) << output_;
  EXPECT_EQ(output_.find("vdso"), std::string::npos) << output_;
  shell("grep 'process came after the resume, and is not what was resumed' $mnt/ctl", image);
  expect_ok(*program);
}

TEST_F(Journeys, a_pid_of_another_namespace_is_refused) {
  // 1 is the shell in there, and init out here.
  shell("unshare --pid --fork bash -c '! echo 1 > $mnt/ctl; grep \"1: a pid of another pid namespace\" $mnt/ctl'");
  EXPECT_TRUE(fs::is_empty(mount_.path("images")));
}

TEST_F(Journeys, inside_the_mount) {
  auto program = start("mem_private");
  ASSERT_TRUE(program);
  const std::string image = std::to_string(program->pid());
  ASSERT_NO_FATAL_FAILURE(checkpoint(image));
  program->kill_and_reap();
  shell("cp -a $mnt/images/$image $mnt/restore/", image);
  program->resumed();
  ASSERT_TRUE(program->running());
  // Copies of an image are images: one made of it is resumed under its other name.
  program->kill_and_reap();
  shell("cp -r $mnt/images/$image $mnt/images/copy; mv $mnt/images/copy $mnt/images/moved; rm -r $mnt/images/$image;"
        "test -f $mnt/images/moved/manifest; cp -a $mnt/images/moved $mnt/restore/", image);
  program->resumed();
  ASSERT_TRUE(program->running());
  // Moved into the drop box, it runs and is no longer stored.
  program->kill_and_reap();
  shell("mv $mnt/images/moved $mnt/restore/; ! test -e $mnt/images/moved", image);
  expect_ok(*program);
}

TEST_F(Journeys, commands_of_ctl) {
  auto program = start("threads");
  ASSERT_TRUE(program);
  const std::string pid = std::to_string(program->pid());
  ASSERT_NO_FATAL_FAILURE(checkpoint(pid + " name=before"));
  ASSERT_NO_FATAL_FAILURE(checkpoint(pid + " exit name=last"));
  ASSERT_TRUE(program->wait_end());
  EXPECT_TRUE(exists(mount_.path("images/before/manifest")) && exists(mount_.path("images/last/manifest")));
  ASSERT_NO_FATAL_FAILURE(checkpoint("restore last"));
  program->resumed();
  EXPECT_TRUE(program->running());
  EXPECT_EQ(mount_.command("restore before").error, EEXIST);
  program->kill_and_reap();
  ASSERT_NO_FATAL_FAILURE(checkpoint("restore before"));
  program->resumed();
  ASSERT_NO_FATAL_FAILURE(checkpoint("delete last"));
  EXPECT_FALSE(exists(mount_.path("images/last")));
  expect_ok(*program);
}

/// A name stands for the new image at once, whatever the kernel knew of the old one.
TEST_F(Journeys, a_name_moves_on) {
  auto program = start("threads");
  ASSERT_TRUE(program);
  const std::string command = std::to_string(program->pid()) + " name=x", manifest = mount_.path("images/x/manifest");
  ASSERT_NO_FATAL_FAILURE(checkpoint(command));
  for (int older = 1; older <= 5; ++older) {
    const std::string before = read_file(manifest);
    ASSERT_FALSE(before.empty());
    ASSERT_NO_FATAL_FAILURE(checkpoint(command));
    EXPECT_NE(read_file(manifest), before);
    EXPECT_EQ(read_file(mount_.path("images/x@" + std::to_string(older) + "/manifest")), before);
  }
  ASSERT_NO_FATAL_FAILURE(checkpoint("delete x"));
  EXPECT_FALSE(exists(manifest));
  expect_ok(*program);
}

TEST_F(Journeys, stop) {
  auto program = start("threads");
  ASSERT_TRUE(program);
  ASSERT_NO_FATAL_FAILURE(checkpoint(std::to_string(program->pid()) + " stop"));
  EXPECT_TRUE(wait_until([&] { return program->state() == 'T'; })) << "its state is " << program->state();
  kill(program->pid(), SIGCONT);
  expect_ok(*program);
}

TEST_F(Journeys, a_stopped_process) {
  auto program = start("threads");
  ASSERT_TRUE(program);
  kill(program->pid(), SIGSTOP);
  ASSERT_TRUE(wait_until([&] { return program->state() == 'T'; }));
  const std::string pid = std::to_string(program->pid());
  ASSERT_NO_FATAL_FAILURE(checkpoint(pid));
  EXPECT_TRUE(wait_until([&] { return program->state() == 'T'; })) << "it goes on, state " << program->state();
  program->kill_and_reap();
  shell("cp -a $mnt/images/$image $mnt/restore/", pid);
  program->resumed();
  kill(program->pid(), SIGCONT);
  expect_ok(*program);
}

TEST_F(Journeys, edited_and_sealed) {
  auto program = start("fd_eventfd");
  ASSERT_TRUE(program);
  const std::string image = std::to_string(program->pid());
  ASSERT_NO_FATAL_FAILURE(checkpoint(image));
  program->kill_and_reap();
  ASSERT_TRUE(archive(mount_, image, scratch_.path() + "/" + image));
  // The umask is a number in a text: a harmless thing to change.
  shell("sed -i 's/^umask .*/umask 0077/' $out/$image/process; grep -q '^umask 0077' $out/$image/process;"
        "$bin/ckpt seal $out/$image; cp -a $out/$image $mnt/restore/", image);
  program->resumed();
  EXPECT_NE(read_file("/proc/" + image + "/status").find("Umask:\t0077"), std::string::npos);
  expect_ok(*program);
}

TEST_F(Journeys, debugger_on_a_core) {
  auto program = start("threads");
  ASSERT_TRUE(program);
  const std::string image = std::to_string(program->pid());
  ASSERT_NO_FATAL_FAILURE(checkpoint(image));
  shell("gdb -nx -batch -ex 'thread apply all bt' -c $mnt/cores/$image $bin/programs/threads 2>&1", image);
  EXPECT_NE(output_.find("main ("), std::string::npos) << output_;
  size_t turners = 0;
  for (size_t at = output_.find("take_turns"); at != std::string::npos; at = output_.find("take_turns", at + 1)) ++turners;
  EXPECT_GE(turners, 8u) << output_;
  expect_ok(*program);
}

/// A shell that checkpoints itself: the write is answered, the script goes on; the resumed one goes on there too.
TEST_F(Journeys, a_shell_checkpoints_itself) {
  const std::string directory = scratch_.path() + "/self";
  fs::create_directory(directory);
  write_file(directory + "/script", "echo before > lines\n"
                                    "exec 9<> never\n"
                                    "echo $$ > " + mount_.path("ctl") + "\n"
                                    "echo after $? >> lines\n"
                                    "while [ ! -e end ]; do read -t 0.05 -u 9; done\n"
                                    "echo end >> lines\n");
  mkfifo((directory + "/never").c_str(), 0600);
  Program program({"bash", "script"}, directory, true);
  const std::string image = std::to_string(program.pid());
  ASSERT_TRUE(wait_until([&] { return exists(mount_.path("images/" + image + "/manifest")); }))
      << read_file(directory + "/stderr") << read_file(mount_.path("ctl"));
  ASSERT_TRUE(wait_until([&] { return read_file(directory + "/lines") == "before\nafter 0\n"; }))
      << read_file(directory + "/lines");
  program.kill_and_reap();
  shell("cp -a $mnt/images/$image $mnt/restore/", image);
  program.resumed();
  write_file(directory + "/end", "");
  EXPECT_TRUE(program.wait_end());
  // The checkpoint was taken after the answer, before or after the next line was written.
  const std::string lines = read_file(directory + "/lines");
  EXPECT_TRUE(lines == "before\nafter 0\nend\n" || lines == "before\nafter 0\nafter 0\nend\n") << lines;
}

/// Its working directory and an open file are in the mount, and threads of it are asking ckptfs something.
TEST_F(Journeys, a_process_that_uses_the_mount) {
  auto other = start("mem_heap");
  ASSERT_TRUE(other);
  ASSERT_NO_FATAL_FAILURE(checkpoint(std::to_string(other->pid()) + " name=other"));
  const std::string directory = scratch_.path() + "/user";
  fs::create_directory(directory);
  write_file(directory + "/script", "cd " + mount_.path("images/other") + "\n"
                                    "exec 3< manifest\n"
                                    "while [ ! -e " + directory + "/end ]; do\n"
                                    "  [ -e fds/0 ] && read -r line < maps && echo \"$line\" > " + directory + "/seen\n"
                                    "done\n");
  Program program({"bash", "script"}, directory, true);
  ASSERT_TRUE(wait_until([&] { return !read_file(directory + "/seen").empty(); })) << read_file(directory + "/stderr");
  for (int i = 0; i < 20; ++i) {
    const Outcome outcome = mount_.command(std::to_string(program.pid()));
    // Whether a descriptor that leads into the mount can be saved is not the question here: it must not hang, and the
    // process must go on.
    EXPECT_TRUE(outcome.error == 0 || outcome.error == EOPNOTSUPP) << strerror(outcome.error) << outcome.sentence;
    fs::remove(directory + "/seen");
    ASSERT_TRUE(wait_until([&] { return exists(directory + "/seen"); })) << "it does not go on, state " << program.state();
  }
  write_file(directory + "/end", "");
  EXPECT_TRUE(program.wait_end());
  expect_ok(*other);
}

TEST_F(Journeys, several_at_once) {
  std::vector<std::unique_ptr<CheckProgram>> programs;
  for (const char* name : {"threads", "mem_snapshot", "mem_heap", "registers", "fd_many", "sys_pipe_read"}) {
    programs.push_back(start(name));
    ASSERT_TRUE(programs.back());
  }
  std::vector<std::thread> writers;
  for (auto& program : programs) {
    writers.emplace_back([&, pid = std::to_string(program->pid())] {
      for (int i = 0; i < 4; ++i) {
        const Outcome outcome = mount_.command(pid);
        EXPECT_EQ(outcome.error, 0) << outcome.sentence;
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  for (auto& program : programs) {
    const std::string image = "images/" + std::to_string(program->pid());
    for (const char* suffix : {"", "@1", "@2", "@3"}) EXPECT_TRUE(exists(mount_.path(image + suffix))) << image << suffix;
  }
  for (auto& program : programs) program->kill_and_reap();
  writers.clear();
  for (auto& program : programs) {
    writers.emplace_back([&, pid = std::to_string(program->pid())] {
      const CommandResult result = run({"cp", "-a", mount_.path("images/" + pid + "@2"), mount_.path("restore/")});
      EXPECT_EQ(result.status, 0) << result.output << read_file(mount_.path("restore/" + pid + "@2/error"));
    });
  }
  for (std::thread& writer : writers) writer.join();
  for (auto& program : programs) expect_ok(*program);
}

/// The same process through many generations of resumes.
TEST_F(Journeys, again_and_again) {
  auto program = start("threads");
  ASSERT_TRUE(program);
  const std::string image = std::to_string(program->pid());
  for (int i = 0; i < 15; ++i) {
    ASSERT_NO_FATAL_FAILURE(checkpoint(image + " exit"));
    ASSERT_TRUE(program->wait_end()) << "generation " << i;
    shell("cp -a $mnt/images/$image $mnt/restore/", image);
    ASSERT_FALSE(HasFailure()) << "generation " << i << ": " << read_file(mount_.path("restore/" + image + "/error"));
    program->resumed();
    ASSERT_FALSE(exists(program->path("result"))) << "generation " << i << ": " << program->wait_result();
  }
  expect_ok(*program);
}

/// Ctrl-C at the echo: the process goes on, nothing is stored.
TEST_F(Journeys, interrupted_writer) {
  const std::string directory = scratch_.path() + "/large";
  fs::create_directory(directory);
  write_file(directory + "/script", "import os, time\n"
                                    "data = bytearray(os.urandom(1 << 20) * 600)\n"
                                    "for i in range(0, len(data), 4096): data[i:i+8] = i.to_bytes(8, 'little')\n"
                                    "while not os.path.exists('end'):\n"
                                    "    open('alive', 'w').close(); time.sleep(0.01)\n");
  Program program({"python3", "script"}, directory, true);
  ASSERT_TRUE(wait_until([&] { return exists(directory + "/alive"); })) << read_file(directory + "/stderr");
  const std::string line = std::to_string(program.pid()) + "\n", ctl = mount_.path("ctl");
  const pid_t writer = fork();
  if (writer == 0) {
    struct sigaction action = {};
    action.sa_handler = [](int) {};
    sigaction(SIGINT, &action, nullptr);  // without SA_RESTART
    const int fd = open(ctl.c_str(), O_WRONLY);
    _exit(write(fd, line.data(), line.size()) < 0 ? errno : 0);
  }
  const std::string call = "/proc/" + std::to_string(writer) + "/syscall", write_call = std::to_string(SYS_write) + " ";
  EXPECT_TRUE(wait_until([&] { return read_file(call).starts_with(write_call); }));
  kill(writer, SIGINT);
  int status = 0;
  waitpid(writer, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), EINTR) << strerror(WEXITSTATUS(status));
  EXPECT_TRUE(fs::is_empty(mount_.path("images")));
  fs::remove(directory + "/alive");
  EXPECT_TRUE(wait_until([&] { return exists(directory + "/alive"); })) << "it does not go on, state " << program.state();
  ASSERT_NO_FATAL_FAILURE(checkpoint(std::to_string(program.pid())));
  write_file(directory + "/end", "");
  EXPECT_TRUE(program.wait_end());
}

}  // namespace
}  // namespace ckpt_test
