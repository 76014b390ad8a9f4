// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0
#include "compat.h"

ckpt_task_work_add_t *ckpt_task_work_add;
ckpt_mm_alloc_t *ckpt_mm_alloc;
ckpt_dup_mmap_t *ckpt_dup_mmap;
ckpt_walk_page_range_t *ckpt_walk_page_range;
ckpt_lock_task_sighand_t *ckpt_lock_task_sighand;
ckpt_speculation_get_t *ckpt_speculation_get;
static ckpt_timer_get_t *common_timer_get, *cpu_timer_get;

/* kallsyms_lookup_name() is not exported; a probe that is never enabled tells an address as well. */
static void *look_up(const char *name)
{
	struct kprobe probe = { .symbol_name = name, .flags = KPROBE_FLAG_DISABLED };
	void *address;

	if (register_kprobe(&probe) < 0) {
		pr_err("this kernel has no %s\n", name);
		return NULL;
	}
	address = probe.addr;
	unregister_kprobe(&probe);
	return address;
}

void ckpt_timer_get(struct k_itimer *timer, struct itimerspec64 *setting)
{
	/* Clocks of processes and threads have negative numbers (posix_cpu_timer_create() in kernel/time). */
	(timer->it_clock < 0 ? cpu_timer_get : common_timer_get)(timer, setting);
}

int ckpt_compat_init(void)
{
	const struct {
		const char *name;
		void **to;
	} symbols[] = {
		{ "task_work_add", (void **)&ckpt_task_work_add },
		{ "mm_alloc", (void **)&ckpt_mm_alloc },
		{ "dup_mmap", (void **)&ckpt_dup_mmap },
		{ "walk_page_range", (void **)&ckpt_walk_page_range },
		{ "__lock_task_sighand", (void **)&ckpt_lock_task_sighand },
		{ "arch_prctl_spec_ctrl_get", (void **)&ckpt_speculation_get },
		{ "common_timer_get", (void **)&common_timer_get },
		{ "posix_cpu_timer_get", (void **)&cpu_timer_get },
	};
	int i, error = 0;

	for (i = 0; i < ARRAY_SIZE(symbols); i++) {
		*symbols[i].to = look_up(symbols[i].name);
		if (!*symbols[i].to)
			error = -ENOENT;
	}
	return error;
}

static void notrace enter_hook(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *ops, struct ftrace_regs *regs)
{
	ftrace_instruction_pointer_set(regs, (unsigned long)container_of(ops, struct ckpt_hook, ops)->replacement);
}

int ckpt_hook(struct ckpt_hook *hook)
{
	/* A function begins with what is to become a call of ftrace; behind that stands all of it. */
	char *const entry = look_up(hook->symbol);
	int error;

	if (!entry)
		return -ENOENT;
	hook->original = entry + MCOUNT_INSN_SIZE;
	hook->ops.func = enter_hook;
	/* Permanent: kernel.ftrace_enabled cannot be set to 0 meanwhile. */
	hook->ops.flags = FTRACE_OPS_FL_IPMODIFY | FTRACE_OPS_FL_PERMANENT;
	error = ftrace_set_filter_ip(&hook->ops, (unsigned long)entry, 0, 0);
	if (!error)
		error = register_ftrace_function(&hook->ops);
	if (error)
		pr_err("%s cannot be hooked: error %d\n", hook->symbol, -error);
	return error;
}

void ckpt_unhook(struct ckpt_hook *hook)
{
	unregister_ftrace_function(&hook->ops);
	ftrace_free_filter(&hook->ops);
	/* Whoever is in the replacement holds a spin lock with interrupts off. */
	synchronize_rcu();
}
