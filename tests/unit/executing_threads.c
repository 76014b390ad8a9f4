// Counts its starts in the eventfd whose number is its argument, and starts itself again from a thread, for ever.
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

static char **arguments;

static void *wait_for_ever(void *unused) {
  (void)unused;
  for (;;) usleep(50);
  return NULL;
}

static void *execute(void *unused) {
  (void)unused;
  usleep((unsigned)rand() % 1000);
  execv("/proc/self/exe", arguments);
  _exit(1);
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  arguments = argv;
  srand((unsigned)getpid() ^ (unsigned)(size_t)&argc);
  eventfd_write(atoi(argv[1]), 1);
  pthread_t thread;
  for (int i = 0; i < 4; ++i) {
    if (pthread_create(&thread, NULL, i == 3 ? execute : wait_for_ever, NULL) != 0) return 3;
  }
  for (;;) pause();
}
