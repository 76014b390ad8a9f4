// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0
#include <linux/module.h>

#include "compat.h"
#include "internal.h"

static int __init ckpt_init(void)
{
	int error = ckpt_compat_init();

	if (error)
		return error;
	error = ckpt_device_init();
	if (error)
		return error;
	error = ckpt_signals_init();
	if (error)
		ckpt_device_exit();
	return error;
}

static void __exit ckpt_exit(void)
{
	ckpt_signals_exit();
	ckpt_device_exit();
}

module_init(ckpt_init);
module_exit(ckpt_exit);
MODULE_DESCRIPTION("Signals whose default action is a checkpoint, snapshots of memory, facts and stops of processes");
MODULE_LICENSE("Dual BSD/GPL");
MODULE_VERSION("0.1.0");
