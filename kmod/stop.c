// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0
/* A stop of a process: a descriptor, whose close lets the threads go on. */
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"
#include "stop.h"

void ckpt_put_stop(struct stop *stop)
{
	struct stop_thread *thread, *next;

	if (!refcount_dec_and_test(&stop->users))
		return;
	list_for_each_entry_safe(thread, next, &stop->threads, link) {
		put_task_struct(thread->task);
		kfree(thread->xsave);
		kfree(thread);
	}
	mmdrop(stop->mm);
	put_pid(stop->pid);
	put_pid(stop->owner);
	kfree(stop);
}

void ckpt_let_go(struct stop *stop)
{
	spin_lock(&stop->lock);
	stop->let_go = true;
	spin_unlock(&stop->lock);
	wake_up_all(&stop->released);
}

static long stop_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct stop *stop = file->private_data;
	void __user *at = (void __user *)argument;

	switch (command) {
	case CKPT_STOP_WAIT:
		return ckpt_stop_wait(stop, at);
	case CKPT_STOP_THREADS:
		return ckpt_stop_threads(stop, at);
	case CKPT_STOP_STATE:
		return ckpt_stop_state(stop, at);
	case CKPT_STOP_PENDING:
		return ckpt_stop_pending(stop, at);
	case CKPT_STOP_GO_ON:
		return ckpt_stop_go_on(stop, at);
	default:
		return -ENOTTY;
	}
}

static int stop_flush(struct file *file, fl_owner_t id)
{
	struct stop *stop = file->private_data;

	if (task_tgid(current) == stop->owner)
		ckpt_let_go(stop);
	return 0;
}

static int stop_release(struct inode *inode, struct file *file)
{
	struct stop *stop = file->private_data;

	ckpt_let_go(stop);
	ckpt_put_stop(stop);
	return 0;
}

static const struct file_operations stop_operations = {
	.owner = THIS_MODULE,
	.flush = stop_flush,
	.release = stop_release,
	.unlocked_ioctl = stop_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct stop *make_stop(struct ckpt_subject *subject)
{
	struct stop *stop = kzalloc(sizeof(*stop), GFP_KERNEL);

	if (!stop)
		return NULL;
	refcount_set(&stop->users, 1);
	stop->pid = get_pid(task_tgid(subject->task));
	mmgrab(subject->mm);
	stop->mm = subject->mm;
	stop->owner = get_pid(task_tgid(current));
	mutex_init(&stop->asking);
	spin_lock_init(&stop->lock);
	INIT_LIST_HEAD(&stop->threads);
	init_waitqueue_head(&stop->changed);
	init_waitqueue_head(&stop->released);
	return stop;
}

long ckpt_stop(const void __user *argument)
{
	struct ckpt_stop request;
	struct ckpt_subject subject;
	struct stop_count count;
	struct stop *stop;
	long result;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.reserved)
		return -EINVAL;
	result = ckpt_get_subject(&subject, request.pid, PIDTYPE_TGID);
	if (result)
		return result;
	/* Nobody would be left to let it go. */
	stop = same_thread_group(subject.task, current) ? NULL : make_stop(&subject);
	result = stop ? 0 : same_thread_group(subject.task, current) ? -EINVAL : -ENOMEM;
	ckpt_put_subject(&subject);
	if (result)
		return result;
	result = ckpt_ask_all(stop, &count);
	if (!result)
		result = ckpt_descriptor("[ckpt_stop]", &stop_operations, stop, 0);
	if (result < 0) {
		ckpt_let_go(stop);
		ckpt_put_stop(stop);
	}
	return result;
}
