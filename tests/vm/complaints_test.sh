#!/bin/bash
# What tests/vm/complaints finds in a kernel's log, by lines as the kernel has them (printk formats of Linux 6.1).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
log=$(mktemp "${TMPDIR:-/tmp}/ckptfs-complaints.XXXXXX")
trap 'rm -f "$log"' EXIT
fail() { echo "complaints_test: $*" >&2; exit 1; }
harmless='[    0.028000] tsc: Unable to calibrate against PIT
[    3.364694] hpet: Lost 1 RTC interrupts
[    7.106065] Unstable clock detected, switching default tracing clock to "global"
[   10.892170] ckpt: loading out-of-tree module taints kernel.
[   11.000000] ckpt: 230: signal 62 is ignored: no ckptfs is mounted that serves /dev/ckpt
[   40.000000] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [ckptfs:99]
[   50.000000] guest: the script ended with 0'
echo "$harmless" >"$log"
"$here/complaints" "$log" || fail 'a log without a complaint'
count=0
while read -r line; do
  { echo "$harmless"; echo "[   12.345678] $line"; echo "$harmless"; } >"$log"
  if "$here/complaints" "$log" >"$log.found"; then fail "not found: $line"; fi
  grep -qF -- "$line" "$log.found" || fail "not shown: $line"
  rm "$log.found"
  count=$((count + 1))
done <<'LINES'
WARNING: CPU: 1 PID: 230 at kernel/fork.c:734 __mmdrop+0x1a0/0x1b0
WARNING: possible recursive locking detected
WARNING: possible circular locking dependency detected
WARNING: suspicious RCU usage
BUG: Bad rss-counter state mm:00000000a3bd7f3e type:MM_ANONPAGES val:3
BUG: Bad page state in process ckptfs  pfn:0a1b2
BUG: unable to handle page fault for address: ffffffffc0561000
BUG: kernel NULL pointer dereference, address: 0000000000000010
BUG: scheduling while atomic: ckptfs/99/0x00000002
BUG: sleeping function called from invalid context at include/linux/sched/mm.h:274
BUG kmalloc-64 (Tainted: G           O      ): Right Redzone overwritten
BUG kmalloc-32 (Tainted: G           O      ): Object already free
Oops: 0002 [#1] PREEMPT SMP NOPTI
general protection fault, probably for non-canonical address 0xdead000000000108: 0000 [#1] PREEMPT SMP NOPTI
Kernel panic - not syncing: Fatal exception
INFO: task ckptfs:99 blocked for more than 120 seconds.
list_del corruption. prev->next should be ffff888004b1c2c0, but was dead000000000100
refcount_t: underflow; use-after-free.
ckptfs[99]: segfault at 0 ip 000055d0c1a2b3c4 sp 00007ffd0a1b2c30 error 4 in ckptfs[55d0c1a00000+100000]
LINES
[ "$count" = 19 ] || fail "$count lines were tried"
