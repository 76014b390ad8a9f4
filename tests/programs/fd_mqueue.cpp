// POSIX message queues: one with messages that a child has too, another description of it, and an empty one that is gone
// before the resume.
#include <mqueue.h>

#include "family.h"

namespace {

mqd_t open_queue(const std::string& name, int flags, long messages) {
  mq_attr attr = {};
  attr.mq_maxmsg = messages;
  attr.mq_msgsize = 64;
  return must(mq_open(name.c_str(), flags, 0600, &attr), "mq_open");
}

void send(mqd_t queue, const char* text, unsigned priority) { must(mq_send(queue, text, strlen(text) + 1, priority), "mq_send"); }

void require_next(mqd_t queue, const char* text, unsigned priority) {
  char got[64] = {};
  unsigned its = 0;
  must(mq_receive(queue, got, sizeof got, &its), "mq_receive");
  REQUIRE(strcmp(got, text) == 0 && its == priority, "got '%s' of priority %u, not '%s' of %u", got, its, text, priority);
}

mq_attr attributes(mqd_t queue) {
  mq_attr attr;
  must(mq_getattr(queue, &attr), "mq_getattr");
  return attr;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 4) return mq_unlink(argv[3]) == 0 ? 0 : 1;  // as DIR/between does
  begin(argc, argv);
  Roll roll;
  const std::string pid = std::to_string(getpid()), name = "/ckptfs-" + pid, lost_name = name + "-lost";
  const mqd_t queue = open_queue(name, O_RDWR | O_CREAT | O_EXCL, 5), lost = open_queue(lost_name, O_RDWR | O_CREAT | O_EXCL, 3);
  const mqd_t reader = must(mq_open(name.c_str(), O_RDONLY | O_NONBLOCK), "mq_open");
  send(queue, "low", 1);
  send(queue, "high", 9);
  const pid_t other = child([&] {
    roll.here();
    wait_in_place("the other");
    send(queue, "from the other", 5);
  });
  roll.wait_for(1);
  const std::string between = "[ -e /proc/" + pid + " ] || " + link_text("/proc/self/exe") + " . unlink " + lost_name + "\n";
  write_file("between", between.data(), between.size());
  ready();
  wait_in_place("the first");
  join(other);

  require_next(reader, "high", 9);
  require_next(reader, "from the other", 5);
  require_next(queue, "low", 1);
  char none[64];
  REQUIRE(mq_receive(reader, none, sizeof none, nullptr) == -1 && errno == EAGAIN, "the queue is not empty, or would block");
  REQUIRE((attributes(queue).mq_flags & O_NONBLOCK) == 0, "a blocking descriptor does not block any more");
  REQUIRE((fcntl(reader, F_GETFL) & O_ACCMODE) == O_RDONLY, "the reader may write");
  REQUIRE(attributes(lost).mq_maxmsg == 3 && attributes(lost).mq_msgsize == 64, "the empty queue is another one");
  const mqd_t again = must(mq_open(lost_name.c_str(), O_WRONLY), "mq_open of the empty queue");
  send(again, "new", 2);
  require_next(lost, "new", 2);
  must(mq_unlink(name.c_str()), "mq_unlink");
  must(mq_unlink(lost_name.c_str()), "mq_unlink");
  return passed();
}
