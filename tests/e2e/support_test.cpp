// The table of kinds and states in README.md is true: what it calls supported has a self-checking program, which
// programs_test takes through checkpoint and resume; what it calls refused is refused here, by a sentence that names it, and
// taken with the option that it is said to need; and no program and no state is without a row.
#include <errno.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "program.h"

namespace ckpt_test {
namespace {

constexpr const char* kRefusedState = CKPT_BIN_DIR "/programs/refused_state";

/// One line: "| kind | state | today | shown by |".
struct Row {
  std::string what;              ///< kind and state, for messages
  std::string today;             ///< "supported", "refused", "needs `OPTION`"
  std::vector<std::string> shown_by;
};

std::vector<std::string> words(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> all;
  for (std::string word; in >> word;) all.push_back(word);
  return all;
}

std::vector<Row> rows() {
  std::istringstream readme(read_file(CKPT_SOURCE_DIR "/README.md"));
  std::vector<Row> all;
  bool inside = false;
  for (std::string line; std::getline(readme, line);) {
    if (line.starts_with("| kind | state | today |")) {
      inside = true;
    } else if (!inside || line.starts_with("| ---")) {
      continue;
    } else if (!line.starts_with("|")) {
      break;
    } else {
      std::smatch cells;
      EXPECT_TRUE(std::regex_match(line, cells, std::regex("\\| (.*)\\| (.*) \\| (.*) \\| (.*) \\|"))) << line;
      if (!cells.empty()) all.push_back({cells[1].str() + ", " + cells[2].str(), cells[3], words(cells[4])});
    }
  }
  return all;
}

/// Every state of refused_state, with the option that it needs; "" for none.
std::map<std::string, std::string> states() {
  std::istringstream list(run({kRefusedState, "--list"}).output);
  std::map<std::string, std::string> all;
  for (std::string line; std::getline(list, line);) {
    const size_t space = line.find(' ');
    all.emplace(line.substr(0, space), line.substr(space + 1));
  }
  return all;
}

/// The sources of all tests, for what cannot be brought about on any machine, or is no state of a program.
std::string test_sources() {
  std::string all;
  for (const char* directory : {CKPT_SOURCE_DIR "/tests/unit", CKPT_SOURCE_DIR "/tests/e2e"}) {
    for (const auto& entry : std::filesystem::directory_iterator(directory)) all += read_file(entry.path());
  }
  return all;
}

/// "Suite.Name", of another test.
bool is_test(const std::string& name, const std::string& sources) {
  const size_t dot = name.find('.');
  if (dot == std::string::npos) return false;
  return std::regex_search(sources, std::regex("TEST(_F|_P)?\\(" + name.substr(0, dot) + ", " + name.substr(dot + 1) + "\\)"));
}

TEST(SupportTable, every_row_is_shown) {
  const std::vector<std::string> programs = words(CKPT_PROGRAMS);
  const auto refused = states();
  const std::string sources = test_sources();
  ASSERT_FALSE(rows().empty()) << "README.md has no table of kinds and states";
  for (const Row& row : rows()) {
    EXPECT_FALSE(row.shown_by.empty()) << row.what << ": nothing shows it";
    for (const std::string& name : row.shown_by) {
      if (is_test(name, sources)) continue;
      if (row.today == "supported") {
        EXPECT_TRUE(std::ranges::find(programs, name) != programs.end()) << row.what << ": there is no program " << name;
        continue;
      }
      ASSERT_TRUE(refused.contains(name)) << row.what << ": there is no state " << name;
      const std::string option = refused.at(name);
      EXPECT_EQ(row.today, option.empty() ? "refused" : "needs `" + option + "`") << row.what << ", " << name;
    }
  }
}

TEST(SupportTable, every_program_and_state_has_a_row) {
  std::set<std::string> shown;
  for (const Row& row : rows()) shown.insert(row.shown_by.begin(), row.shown_by.end());
  for (const std::string& program : words(CKPT_PROGRAMS)) EXPECT_TRUE(shown.contains(program)) << program;
  for (const auto& [state, option] : states()) EXPECT_TRUE(shown.contains(state)) << state;
}

class Refused : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(mount_.mounted());
    std::filesystem::create_directory(directory_);
  }

  void expect_refused(const std::string& command, const std::string& expected) {
    const Outcome outcome = mount_.command(command);
    EXPECT_TRUE(outcome.error == EOPNOTSUPP || outcome.error == EBUSY) << strerror(outcome.error) << "\n" << outcome.sentence;
    std::istringstream lines(expected);
    for (std::string line; std::getline(lines, line);) {
      EXPECT_NE(outcome.sentence.find(line), std::string::npos) << "no '" << line << "' in: " << outcome.sentence;
    }
  }

  Mount mount_;
  TemporaryDirectory scratch_;
  std::string directory_ = scratch_.path() + "/program";
};

TEST_P(Refused, by_name) {
  CheckProgram program("refused_state", directory_, {GetParam()});
  ASSERT_TRUE(program.wait_ready());
  const std::string expected = read_file(program.path("words"));
  if (expected.empty()) GTEST_SKIP() << "there is no such thing here";
  const std::string pid = std::to_string(program.pid()), option = states().at(GetParam());
  expect_refused("check " + pid, expected);
  expect_refused(pid, expected);
  EXPECT_TRUE(std::filesystem::is_empty(mount_.path("images")));
  if (!option.empty()) {
    const Outcome checked = mount_.command("check " + pid + " " + option);
    EXPECT_EQ(checked.error, 0) << checked.sentence;
    EXPECT_NE(checked.sentence.find("nothing is in the way"), std::string::npos) << checked.sentence;
    EXPECT_TRUE(std::filesystem::is_empty(mount_.path("images"))) << "a dry run has stored an image";
    const Outcome taken = mount_.command(pid + " " + option);
    EXPECT_EQ(taken.error, 0) << taken.sentence;
    EXPECT_TRUE(exists(mount_.path("images/" + pid + "/manifest")));
  }
  program.go();
  EXPECT_EQ(program.wait_result(), "ok");
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& [state, option] : states()) all.push_back(state);
  return all;
}

INSTANTIATE_TEST_SUITE_P(, Refused, testing::ValuesIn(names()), [](const auto& state) { return state.param; });

}  // namespace
}  // namespace ckpt_test
