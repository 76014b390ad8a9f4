/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Of the files stop*.c: a stop, and the threads that it is about. */
#ifndef CKPT_STOP_H
#define CKPT_STOP_H

#include <asm/user.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/task_work.h>
#include <linux/wait.h>

#include "ckpt_device.h"

#define CKPT_MOST_XSAVE (64 << 10)

/* Lives as long as its descriptor, and as a work of it that has not run. */
struct stop {
	refcount_t users;
	struct pid *pid;
	struct mm_struct *mm;		/* of the program that may be stopped; only compared */
	struct pid *owner;		/* the process whose close(2) ends the stop */
	struct mutex asking;
	spinlock_t lock;		/* guards what follows */
	struct list_head threads;
	unsigned int asked;		/* of which we do not know yet */
	bool let_go;
	wait_queue_head_t changed;	/* for who waits for the threads */
	wait_queue_head_t released;	/* for the threads */
};

enum stop_state { ASKED, STANDS, GONE };

struct stop_thread {
	struct callback_head work;
	struct list_head link;
	struct stop *stop;
	struct task_struct *task;
	enum stop_state state;
	/* Noted by the thread itself before it stands. */
	int error;
	struct user_regs_struct registers;
	void *xsave;
	unsigned int xsave_size;
	u64 signal_mask;
	/* How it is to go on, where `changed` is. */
	bool changed;
	struct ckpt_go_on go_on;
};

/* stop.c: the last reference frees it. */
void ckpt_put_stop(struct stop *stop);
/* All threads go on. */
void ckpt_let_go(struct stop *stop);

/* stop_thread.c: asks a thread to stand still; -ENOMEM. `asking` is held, so that nobody else adds threads. Does not sleep. */
int ckpt_ask_thread(struct stop *stop, struct task_struct *task);

/* How the threads are. */
struct stop_count {
	unsigned int fresh;	/* have just been asked */
	unsigned int stand;
	unsigned int strange;	/* do not stand, though they do not end: another program */
};
/* stop_wait.c: asks all threads that have not been asked. -ENOMEM; -ESRCH; -EBUSY of a process with an io_uring. */
int ckpt_ask_all(struct stop *stop, struct stop_count *count);
/* CKPT_STOP_WAIT */
long ckpt_stop_wait(struct stop *stop, const void __user *argument);

/* stop_state.c: CKPT_STOP_THREADS, _STATE, _PENDING, _GO_ON */
long ckpt_stop_threads(struct stop *stop, void __user *argument);
long ckpt_stop_state(struct stop *stop, void __user *argument);
long ckpt_stop_pending(struct stop *stop, void __user *argument);
long ckpt_stop_go_on(struct stop *stop, const void __user *argument);

#endif
