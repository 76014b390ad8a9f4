/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
#ifndef CKPT_INTERNAL_H
#define CKPT_INTERNAL_H

#include <linux/fs.h>
#include <linux/pid.h>
#include <linux/types.h>

/* A thread, or with PIDTYPE_TGID a process, that the caller may look into; its memory is held too. */
struct ckpt_subject {
	struct task_struct *task;
	struct mm_struct *mm;
};
/* By its number in the caller's pid namespace. -ESRCH; -EPERM without CAP_SYS_PTRACE in its user namespace. */
int ckpt_get_subject(struct ckpt_subject *subject, pid_t number, enum pid_type type);
void ckpt_put_subject(struct ckpt_subject *subject);

/* device.c: a new descriptor that owns `data` and has `mode` besides; or an error, and `data` is still the caller's. */
int ckpt_descriptor(const char *name, const struct file_operations *operations, void *data, fmode_t mode);

/* signals.c: the default action of the two signals. */
int ckpt_signals_init(void);
void ckpt_signals_exit(void);

/* device.c */
int ckpt_device_init(void);
void ckpt_device_exit(void);

/* snapshot.c: CKPT_IOC_SNAPSHOT; a descriptor, or an error. */
long ckpt_snapshot(const void __user *argument);

/* stop.c: CKPT_IOC_STOP; a descriptor, or an error. */
long ckpt_stop(const void __user *argument);

/* facts.c: CKPT_IOC_THREAD, CKPT_IOC_PROCESS. */
long ckpt_thread_facts(void __user *argument);
long ckpt_process_facts(void __user *argument);

/*
 * Asks whoever has /dev/ckpt open to checkpoint the current process, and waits until it is done, or until the thread is
 * wanted elsewhere (which being stopped for the checkpoint is). 0, or -ENODEV where nobody has it open, -ENOMEM.
 */
int ckpt_request(bool exit, int sig);

/* Ends a process that has been checkpointed and waits, stopped, by the signal: its parent sees this signal. */
void ckpt_end_process(struct pid *pid, int sig);

#endif
