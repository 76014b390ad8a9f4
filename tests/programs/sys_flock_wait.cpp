// Waiting for a file lock that another description of the same process holds.
#include "underway.h"

#include <sys/file.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  const std::string file = make_file("locked", 100, 1);
  const int holder = must(open(file.c_str(), O_RDWR), "open"), waiting = must(open(file.c_str(), O_RDWR), "open");
  must(flock(holder, LOCK_EX), "flock");
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  must(fcntl(holder, F_OFD_SETLK, &lock), "F_OFD_SETLK");
  UnderWay whole(SYS_flock, [&] { must(flock(waiting, LOCK_EX), "the waiting flock"); });
  UnderWay record(SYS_fcntl, [&] {
    struct flock mine = {};
    mine.l_type = F_WRLCK;
    mine.l_whence = SEEK_SET;
    must(fcntl(waiting, F_OFD_SETLKW, &mine), "the waiting F_OFD_SETLKW");
  });
  ready();
  wait_for_go([&] { whole.require_inside("flock"); });
  whole.wait_inside();
  record.wait_inside();
  whole.require_inside("flock");
  record.require_inside("F_OFD_SETLKW");
  close(holder);
  whole.join();
  record.join();
  return passed();
}
