// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0
/* Asking all threads of a process to stand still, and waiting until they do. */
#include <linux/sched/signal.h>
#include <linux/uaccess.h>

#include "stop.h"

/* The lock is held. */
static struct stop_thread *find_task(struct stop *stop, const struct task_struct *task)
{
	struct stop_thread *thread;

	list_for_each_entry(thread, &stop->threads, link)
		if (thread->task == task)
			return thread;
	return NULL;
}

static int ask_each(struct stop *stop, struct stop_count *count)
{
	struct task_struct *leader, *task;
	int error = 0;

	*count = (struct stop_count){};
	rcu_read_lock();
	leader = pid_task(stop->pid, PIDTYPE_TGID);
	if (!leader) {
		rcu_read_unlock();
		return -ESRCH;
	}
	for_each_thread(leader, task) {
		const struct stop_thread *known;
		enum stop_state state = ASKED;

		if (task->flags & PF_EXITING)
			continue;
#ifdef CONFIG_IO_URING
		/* Runs task works in the middle of its system calls. */
		if ((task->flags & PF_IO_WORKER) || task->io_uring) {
			error = -EBUSY;
			break;
		}
#endif
		spin_lock(&stop->lock);
		known = find_task(stop, task);
		if (known)
			state = known->state;
		spin_unlock(&stop->lock);
		if (!known) {
			error = ckpt_ask_thread(stop, task);
			if (error)
				break;
			count->fresh++;
		} else if (state == STANDS) {
			count->stand++;
		} else {
			count->strange++;
		}
	}
	rcu_read_unlock();
	return error;
}

int ckpt_ask_all(struct stop *stop, struct stop_count *count)
{
	int error;

	mutex_lock(&stop->asking);
	error = ask_each(stop, count);
	mutex_unlock(&stop->asking);
	return error;
}

long ckpt_stop_wait(struct stop *stop, const void __user *argument)
{
	struct ckpt_stop_wait request;
	struct stop_count count;
	long left, error;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.reserved)
		return -EINVAL;
	left = msecs_to_jiffies(min_t(u32, request.timeout_ms, 60 * MSEC_PER_SEC)) + 1;
	for (;;) {
		error = ckpt_ask_all(stop, &count);
		if (error)
			return error;
		left = wait_event_interruptible_timeout(stop->changed, !READ_ONCE(stop->asked), left);
		if (left < 0)
			return -EINTR;
		if (!left)
			return -ETIMEDOUT;
		/* All that are known stand, and nobody is left who could make another. */
		error = ckpt_ask_all(stop, &count);
		if (error)
			return error;
		if (count.strange)
			return -EAGAIN;
		if (!count.fresh)
			return count.stand ? 0 : -ESRCH;
	}
}
