/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
#ifndef CKPT_INTERNAL_H
#define CKPT_INTERNAL_H

#include <linux/types.h>

struct pid;

/* signals.c: the default action of the two signals. */
int ckpt_signals_init(void);
void ckpt_signals_exit(void);

/* device.c */
int ckpt_device_init(void);
void ckpt_device_exit(void);

/* snapshot.c: CKPT_IOC_SNAPSHOT; a descriptor, or an error. */
long ckpt_snapshot(const void __user *argument);

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
