/* A program that checkpoints itself when it is asked to by SIGCKPT (kill -s 62 PID), and knows when it has been resumed. */
#include <ckpt.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static volatile sig_atomic_t asked;

static void on_sigckpt(int signo) {
  (void)signo;
  asked = 1;
}

int main(void) {
  struct sigaction action = {.sa_handler = on_sigckpt};
  sigaction(SIGCKPT, &action, NULL);
  sigset_t only, before;
  sigemptyset(&only);
  sigaddset(&only, SIGCKPT);
  sigprocmask(SIG_BLOCK, &only, &before);
  printf("ready\n");
  for (;;) {
    fflush(stdout); /* tidy up: what is buffered would be written twice */
    while (!asked) sigsuspend(&before);
    asked = 0;
    int flags = ckpt_checkpoint(-1, 0);
    if (flags < 0)
      perror("ckpt_checkpoint");
    else if (flags & CKPT_RETURN)
      printf("resumed\n");
    else
      printf("checkpointed\n");
  }
}
