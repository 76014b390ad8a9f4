/*
 * Calls of libckpt, one a run, for tests/e2e/api_test.cpp. Prints what each call returned.
 *
 *   api_calls checkpoint FLAGS [DIRECTORY]   ckpt_checkpoint from a second thread, then from a signal handler
 *   api_calls restore FLAGS DIRECTORY
 *
 * checkpoint writes a line for each return, "thread 0x0" or "handler: Invalid argument", and ends when both have returned
 * and DIR/go (in the working directory) is there.
 */
#include <ckpt.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int flags, directory = -1;
static volatile sig_atomic_t handled, handled_errno;

static void report(const char *who, int result, int error) {
  if (result < 0)
    printf("%s: %s\n", who, strerror(error));
  else
    printf("%s %#x\n", who, (unsigned)result);
  fflush(stdout);
}

static void *in_thread(void *unused) {
  (void)unused;
  const int result = ckpt_checkpoint(directory, flags);
  report("thread", result, errno);
  return NULL;
}

static void on_signal(int signo) {
  (void)signo;
  handled = ckpt_checkpoint(-1, flags);
  handled_errno = errno;
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  flags = (int)strtol(argv[2], NULL, 0);
  if (argc > 3 && (directory = open(argv[3], O_RDONLY | O_DIRECTORY)) < 0) return 2;
  if (strcmp(argv[1], "restore") == 0) {
    const int result = ckpt_restore(directory, flags);
    report("restore", result, errno);
    return result < 0;
  }
  pthread_t thread;
  pthread_create(&thread, NULL, in_thread, NULL);
  pthread_join(thread, NULL);
  if (directory < 0) {
    signal(SIGCKPT, on_signal);
    raise(SIGCKPT);
    report("handler", handled, handled_errno);
  }
  while (access("go", F_OK) != 0) usleep(2000);
  return 0;
}
