// The working directory.
#include "selfcheck.h"

int main(int argc, char** argv) {
  begin(argc, argv);
  must(mkdir(path("inside").c_str(), 0755), "mkdir");
  make_file("inside/file", 64, 1);
  must(chdir(path("inside").c_str()), "chdir");
  ready();
  wait_for_go();
  char text[4096];
  REQUIRE(getcwd(text, sizeof text), "getcwd: %s", strerror(errno));
  REQUIRE(text == path("inside"), "it is %s", text);
  REQUIRE(read_text("file") == filled_text(64, 1), "a relative path leads to something else");
  return passed();
}
