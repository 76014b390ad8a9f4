// The file mode creation mask.
#include "selfcheck.h"

int main(int argc, char** argv) {
  begin(argc, argv);
  umask(0137);
  ready();
  wait_for_go();
  REQUIRE(status_line("Umask") == "0137", "it is %s", status_line("Umask").c_str());
  const mode_t was = umask(0);
  REQUIRE(was == 0137, "it was %o", was);
  return passed();
}
