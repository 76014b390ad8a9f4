/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/*
 * Everything in the module that depends on the kernel's version, and every function of the kernel that is reached
 * without being exported. Written for Linux 6.1; nothing else may include a version or name a symbol.
 */
#ifndef CKPT_COMPAT_H
#define CKPT_COMPAT_H

#include <linux/ftrace.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/pagewalk.h>
#include <linux/posix-timers.h>
#include <linux/rseq.h>
#include <linux/sched.h>
#include <linux/signal.h>
#include <linux/task_work.h>
#include <linux/version.h>

/* task_work_add() is exported by Debian's kernel, not by the mainline one. */
typedef int ckpt_task_work_add_t(struct task_struct *task, struct callback_head *work,
				 enum task_work_notify_mode mode);
extern ckpt_task_work_add_t *ckpt_task_work_add;

/* An empty address space; and the copy of one into it, copy-on-write, as fork(2) makes it (kernel/fork.c). */
typedef struct mm_struct *ckpt_mm_alloc_t(void);
extern ckpt_mm_alloc_t *ckpt_mm_alloc;
typedef int ckpt_dup_mmap_t(struct mm_struct *copy, struct mm_struct *mm);
extern ckpt_dup_mmap_t *ckpt_dup_mmap;

typedef int ckpt_walk_page_range_t(struct mm_struct *mm, unsigned long start, unsigned long end,
				   const struct mm_walk_ops *ops, void *private);
extern ckpt_walk_page_range_t *ckpt_walk_page_range;

/* Takes the siglock of a task that has not been reaped, with interrupts off; NULL of another (kernel/signal.c). */
typedef struct sighand_struct *ckpt_lock_task_sighand_t(struct task_struct *task, unsigned long *flags);
extern ckpt_lock_task_sighand_t *ckpt_lock_task_sighand;

/* What PR_GET_SPECULATION_CTRL answers (arch/x86/kernel/cpu/bugs.c). */
typedef int ckpt_speculation_get_t(struct task_struct *task, unsigned long which);
extern ckpt_speculation_get_t *ckpt_speculation_get;

/* What timer_gettime(2) answers; the timer's lock is held. */
typedef void ckpt_timer_get_t(struct k_itimer *timer, struct itimerspec64 *setting);
void ckpt_timer_get(struct k_itimer *timer, struct itimerspec64 *setting);

/*
 * References to up to `count` pages from `address` on, for reading; fewer before one that is absent and of memory that is
 * zeros then, -EFAULT where the first is. The mmap lock is held.
 */
static inline long ckpt_get_pages(struct mm_struct *mm, unsigned long address, unsigned long count, struct page **pages)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
#error "FOLL_DUMP is internal to this kernel: get_dump_page() is to be looked up"
#endif
	return get_user_pages_remote(mm, address, count, FOLL_FORCE | FOLL_DUMP, pages, NULL, NULL);
}

/* What PTRACE_GET_RSEQ_CONFIGURATION tells; Linux 6.3 knows of other sizes. */
static inline void ckpt_get_rseq(const struct task_struct *task, u64 *address, u32 *size, u32 *signature)
{
#ifdef CONFIG_RSEQ
	if (!task->rseq)
		return;
	*address = (u64)task->rseq;
	*size = sizeof(struct rseq);
	*signature = task->rseq_sig;
#endif
}

/* Finds what is looked up. -ENOENT, with a sentence in the log that names the symbol. */
int ckpt_compat_init(void);

/* Where a signal has been queued and a thread is chosen for it (kernel/signal.c), the siglock being held. */
#define CKPT_COMPLETE_SIGNAL "complete_signal"
typedef void ckpt_complete_signal_t(int sig, struct task_struct *task, enum pid_type type);

/*
 * Where a signal is taken off the queues of a task, the siglock being held: for delivery to the current task where `mask` is
 * what it blocks; sigwaitinfo(2), signalfd(2) and others have a mask of their own. Linux 6.12 has no `task`.
 */
#define CKPT_DEQUEUE_SIGNAL "dequeue_signal"
typedef int ckpt_dequeue_signal_t(struct task_struct *task, sigset_t *mask, kernel_siginfo_t *info, enum pid_type *type);

/* A function of the kernel that one of ours, of the same type, stands in for. */
struct ckpt_hook {
	const char *symbol;
	void *replacement;
	void *original;		/* the function itself: set by ckpt_hook() */
	struct ftrace_ops ops;
};

/* From now on `replacement` is called. An error, with a sentence in the log, where that cannot be had. */
int ckpt_hook(struct ckpt_hook *hook);
/* When it returns the replacement is neither called nor running. */
void ckpt_unhook(struct ckpt_hook *hook);

#endif
