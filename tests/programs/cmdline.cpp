// What ps shows: name, command line (rewritten in place, as daemons do), environment, auxiliary vector, executable.
#include "selfcheck.h"

#include <sys/auxv.h>
#include <sys/prctl.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  directory = std::string(argv[1]);
  must(setenv("CHECKED", "a new variable", 1), "setenv");
  must(prctl(PR_SET_NAME, "renamed (x) y"), "PR_SET_NAME");
  memset(argv[0], 'Q', strlen(argv[0]));
  const auto all = [] {
    return read_text("/proc/self/comm") + "|" + read_text("/proc/self/cmdline") + "|" +
           read_text("/proc/self/environ") + "|" + read_text("/proc/self/auxv") + "|" + link_text("/proc/self/exe");
  };
  const std::string before = all();
  const std::string random(reinterpret_cast<char*>(getauxval(AT_RANDOM)), 16);
  REQUIRE(before.rfind("renamed (x) y\n|QQQ", 0) == 0, "the command line cannot be rewritten: %s", before.c_str());
  ready();
  wait_for_go();
  REQUIRE(all() == before, "was %s, is %s", before.c_str(), all().c_str());
  REQUIRE(std::string(reinterpret_cast<char*>(getauxval(AT_RANDOM)), 16) == random, "AT_RANDOM has changed");
  REQUIRE(getenv("CHECKED") == std::string("a new variable"), "a variable is gone");
  return passed();
}
