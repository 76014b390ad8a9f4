// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0
#include "compat.h"

ckpt_task_work_add_t *ckpt_task_work_add;
ckpt_mm_alloc_t *ckpt_mm_alloc;
ckpt_dup_mmap_t *ckpt_dup_mmap;
ckpt_walk_page_range_t *ckpt_walk_page_range;

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

int ckpt_compat_init(void)
{
	ckpt_task_work_add = (ckpt_task_work_add_t *)look_up("task_work_add");
	ckpt_mm_alloc = (ckpt_mm_alloc_t *)look_up("mm_alloc");
	ckpt_dup_mmap = (ckpt_dup_mmap_t *)look_up("dup_mmap");
	ckpt_walk_page_range = (ckpt_walk_page_range_t *)look_up("walk_page_range");
	return ckpt_task_work_add && ckpt_mm_alloc && ckpt_dup_mmap && ckpt_walk_page_range ? 0 : -ENOENT;
}
