// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0
/* What is told of threads that stand still, and how they are to go on. */
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "compat.h"
#include "stop.h"

#define MOST_PENDING 65536	/* signals that one call tells of */

long ckpt_stop_threads(struct stop *stop, void __user *argument)
{
	struct ckpt_stop_threads request;
	struct stop_thread *thread;
	s32 *tids;
	long error = 0;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.count || request.capacity > PID_MAX_LIMIT)
		return -EINVAL;
	tids = kvcalloc(max(request.capacity, 1u), sizeof(*tids), GFP_KERNEL);
	if (!tids)
		return -ENOMEM;
	spin_lock(&stop->lock);
	list_for_each_entry(thread, &stop->threads, link) {
		if (thread->state != STANDS)
			continue;
		if (request.count == request.capacity) {
			error = -ENOSPC;
			break;
		}
		tids[request.count++] = task_pid_vnr(thread->task);
	}
	spin_unlock(&stop->lock);
	if (!error && (copy_to_user(u64_to_user_ptr(request.tids), tids, request.count * sizeof(*tids)) ||
		       copy_to_user(argument, &request, sizeof(request))))
		error = -EFAULT;
	kvfree(tids);
	return error;
}

/* With the lock held, which keeps it standing where it does not die. */
static struct stop_thread *find_standing(struct stop *stop, pid_t tid)
{
	struct stop_thread *thread;

	list_for_each_entry(thread, &stop->threads, link)
		if (thread->state == STANDS && task_pid_vnr(thread->task) == tid)
			return thread;
	return NULL;
}

static void describe_state(const struct stop_thread *thread, struct ckpt_thread_state *out)
{
	BUILD_BUG_ON(sizeof(out->registers) != sizeof(thread->registers));
	memcpy(out->registers, &thread->registers, sizeof(out->registers));
	out->signal_mask = thread->signal_mask;
	ckpt_get_rseq(thread->task, &out->rseq, &out->rseq_size, &out->rseq_signature);
}

long ckpt_stop_state(struct stop *stop, void __user *argument)
{
	struct ckpt_thread_state request, told = {};
	struct stop_thread *thread;
	void *xsave;
	long error;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	told.tid = request.tid;
	told.xsave = request.xsave;
	told.xsave_size = request.xsave_size;
	if (memcmp(&told, &request, sizeof(told)))
		return -EINVAL;
	xsave = kvmalloc(CKPT_MOST_XSAVE, GFP_KERNEL);
	if (!xsave)
		return -ENOMEM;
	spin_lock(&stop->lock);
	thread = find_standing(stop, request.tid);
	error = !thread ? -ESRCH : thread->error ? thread->error : thread->xsave_size > request.xsave_size ? -ENOSPC : 0;
	if (!error) {
		memcpy(xsave, thread->xsave, thread->xsave_size);
		told.xsave_size = thread->xsave_size;
		describe_state(thread, &told);
	}
	spin_unlock(&stop->lock);
	if (!error && (copy_to_user(u64_to_user_ptr(told.xsave), xsave, told.xsave_size) ||
		       copy_to_user(argument, &told, sizeof(told))))
		error = -EFAULT;
	kvfree(xsave);
	return error;
}

/* The task whose queue is meant, held; or NULL. */
static struct task_struct *task_of(struct stop *stop, pid_t tid)
{
	struct task_struct *task = NULL;
	struct stop_thread *thread;

	spin_lock(&stop->lock);
	list_for_each_entry(thread, &stop->threads, link)
		if (thread->state == STANDS && (!tid || task_pid_vnr(thread->task) == tid)) {
			task = get_task_struct(thread->task);
			break;
		}
	spin_unlock(&stop->lock);
	return task;
}

static int copy_queue(struct task_struct *task, bool of_process, kernel_siginfo_t *infos, struct ckpt_pending *request)
{
	struct sigqueue *queued;
	unsigned long flags;
	int error = 0;

	if (!ckpt_lock_task_sighand(task, &flags))
		return -ESRCH;
	list_for_each_entry(queued, &(of_process ? &task->signal->shared_pending : &task->pending)->list, list) {
		if (request->count == request->capacity) {
			error = -ENOSPC;
			break;
		}
		copy_siginfo(&infos[request->count++], &queued->info);
	}
	unlock_task_sighand(task, &flags);
	return error;
}

long ckpt_stop_pending(struct stop *stop, void __user *argument)
{
	struct ckpt_pending request;
	struct task_struct *task;
	kernel_siginfo_t *infos;
	char __user *to;
	long error;
	u32 i;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.count || request.reserved || request.capacity > MOST_PENDING)
		return -EINVAL;
	task = task_of(stop, request.tid);
	if (!task)
		return -ESRCH;
	infos = kvcalloc(max(request.capacity, 1u), sizeof(*infos), GFP_KERNEL);
	error = infos ? copy_queue(task, !request.tid, infos, &request) : -ENOMEM;
	put_task_struct(task);
	/* As the kernel gives them: behind its own part all is zero (copy_siginfo_to_user() in kernel/signal.c). */
	to = u64_to_user_ptr(request.infos);
	for (i = 0; !error && i < request.count; i++, to += SI_MAX_SIZE)
		if (copy_to_user(to, &infos[i], sizeof(infos[i])) ||
		    clear_user(to + sizeof(infos[i]), SI_MAX_SIZE - sizeof(infos[i])))
			error = -EFAULT;
	if (!error && copy_to_user(argument, &request, sizeof(request)))
		error = -EFAULT;
	kvfree(infos);
	return error;
}

long ckpt_stop_go_on(struct stop *stop, const void __user *argument)
{
	struct ckpt_go_on request;
	struct stop_thread *thread;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.reserved || request.rip >= TASK_SIZE_MAX)
		return -EINVAL;
	spin_lock(&stop->lock);
	thread = find_standing(stop, request.tid);
	if (thread) {
		thread->go_on = request;
		thread->changed = true;
	}
	spin_unlock(&stop->lock);
	return thread ? 0 : -ESRCH;
}
