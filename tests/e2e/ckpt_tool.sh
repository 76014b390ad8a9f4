#!/bin/bash
# The commands of ckpt on a mount of its own: ckpt_tool.sh BIN_DIR
set -euo pipefail
bin=$1
# A slow build or machine is waited for longer. The sample writes ten lines a second.
patience=${CKPTFS_TEST_PATIENCE:-1}
limit=$((60 * patience))
exec </dev/null
work=$(mktemp -d "${TMPDIR:-/tmp}/ckpt-tool.XXXXXX")
pid=''
cleanup() {
  grep -v lookup "$work/daemon" || true
  if [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; then kill -KILL "$pid"; fi
  if mountpoint -q "$work/mnt"; then fusermount3 -u "$work/mnt"; fi
  # The daemon closes its store after the mount has gone.
  local tries=50
  until rm -rf "$work" 2>/dev/null || ((tries-- == 0)); do sleep 0.1; done
}
trap cleanup EXIT
fail() { echo "ckpt_tool: $*" >&2; exit 1; }
ckpt() { "$bin/ckpt" --mount "$work/mnt" "$@"; }
# Runs a command that must end with the given status.
expect() {
  local wanted=$1 status=0
  shift
  "$@" >"$work/out" 2>&1 || status=$?
  [ "$status" -eq "$wanted" ] || fail "'$*' ended with $status, not $wanted: $(cat "$work/out")"
}
says() { grep -q -- "$1" "$work/out" || fail "'$1' is not in: $(cat "$work/out")"; }
wait_until() {
  local tries=$((400 * patience))
  until eval "$1"; do
    ((tries-- > 0)) || fail "waited in vain for: $1"
    sleep 0.05
  done
}
sample() {
  local fd
  for fd in /proc/self/fd/*; do fd=${fd##*/}; [ "$fd" -le 2 ] || eval "exec $fd>&-"; done
  exec setsid "$bin/ckpt-sample" "$work/numbers" "$limit" >/dev/null 2>&1
}
end_sample() {
  kill -KILL "$pid" 2>/dev/null || true  # it may have come to its own end
  { wait "$pid" || true; } 2>/dev/null
  wait_until "! kill -0 $pid 2>/dev/null"
}
# Where the sample has ended before all is done, on a busy machine, it is done once more.
save_sample() {
  local tries=4
  while ((tries-- > 0)); do
    rm -f "$work/numbers"
    sample &
    pid=$!
    wait_until "[ -s $work/numbers ]"
    if ckpt save --dry-run "$pid" && [ -z "$(ls "$work/mnt/images")" ] && ckpt --json save "$pid" &&
      ckpt save --name second "$pid" && ckpt save --no-sockets --name third "$pid"; then
      return
    fi >"$work/out" 2>&1
    ! grep -q '^State:.[RSD]' "/proc/$pid/status" 2>/dev/null || break
    rm -rf "$work/mnt/images/"*
  done
  fail "the sample was not saved: $(cat "$work/out")"
}

expect 0 "$bin/ckpt-sample" --help
expect 2 "$bin/ckpt-sample"
mkdir "$work/mnt"
expect 1 ckpt ls
says 'no ckptfs is mounted'
"$bin/ckptfs" -f "$work/mnt" -o "store=$work/store" 2>"$work/daemon" &
wait_until "[ -e $work/mnt/ctl ]"
# save --dry-run: each refusal on a line
(
  exec 8<>/dev/fuse 9</proc/1/stat
  exec sleep 1000
) &
refused=$!
wait_until "[ \"\$(cat /proc/$refused/comm)\" = sleep ]"
expect 1 ckpt save -d "$refused"
says "^ckpt: $refused: fd 8: the device /dev/fuse cannot be checkpointed$"
says "^ckpt: $refused: fd 9: a file of another process (/proc/1/stat) cannot be checkpointed$"
expect 1 ckpt --json save -d "$refused"
says '"refusals"'
says "^ *\"$refused: fd 9: [^;]*\",*$"
kill -KILL "$refused"
{ wait "$refused" || true; } 2>/dev/null

# on a terminal: how long it takes already, in a line that fits and is erased. Of two processes, a vfork is waited for twice,
# a second each.
mkdir "$work/state"
"$bin/programs/refused_state" "$work/state" vfork_waits &
refused=$!
wait_until "[ -e $work/state/ready ]"
waits="$bin/ckpt --mount $work/mnt save -d -o name=$(printf 'x%.0s' {1..100}) $(cat "$work/state/ready")"
script -qec "stty columns 40; exec $waits" "$work/typescript" >/dev/null && fail 'a process in vfork is not refused'
grep -q "check $refused name=x\{1,20\}: 1 s.\[K" "$work/typescript" || fail "no progress in: $(cat -v "$work/typescript")"
touch "$work/state/go"
wait "$refused"

# save, ls, stats
save_sample
says 'nothing is in the way'
says '"outcome"'
expect 0 ckpt rm third
expect 1 ckpt save 999999999
says '999999999'
expect 2 ckpt save
expect 2 ckpt no-such-command
says "no command 'no-such-command'.* save .* stats"
expect 0 ckpt --json ls
says '"name": "second"'
expect 0 ckpt ls
says 'ckpt-sample'
expect 0 ckpt --json stats
says '"images": 2'

# diff
expect 0 ckpt diff second second
expect 1 ckpt diff "$pid" second
says 'memory'
expect 2 ckpt diff second no-such-image
says 'no such image'

# an edited copy: refused, then sealed
cp -a "$work/mnt/images/second" "$work/copy"
expect 0 ckpt check "$work/copy"
sed -i 's/^pos .*/pos 0/' "$work/copy/fds/3"
expect 1 ckpt check "$work/copy"
says 'fds/3'
end_sample
expect 1 ckpt restore "$work/copy"
says 'fds/3'
[ ! -e "$work/mnt/restore/copy" ] || fail 'a failed attempt is left in restore/'
! kill -0 "$pid" 2>/dev/null || fail 'an image that was not sealed runs'
expect 0 ckpt seal "$work/copy"
expect 0 ckpt check "$work/copy"
expect 1 ckpt diff "$work/copy" second
says 'pos: 0'

# a copy that lacks a file
cp -a "$work/copy" "$work/lacking"
rm "$work/lacking/fds/0"
expect 1 ckpt restore "$work/lacking"
says 'fds/0'
[ ! -e "$work/mnt/restore/lacking" ] || fail 'a half copy is left'

# restore: a directory, a name, the pid in use, in the foreground
expect 0 ckpt restore "$work/copy"
kill -STOP "$pid" || fail 'the copy does not run'
expect 1 ckpt restore second
says 'in use'
kill -KILL "$pid"
wait_until "! kill -0 $pid 2>/dev/null"
expect 0 ckpt restore --stopped second
wait_until "grep -q '^State:.T' /proc/$pid/status"
kill -KILL "$pid"
wait_until "! kill -0 $pid 2>/dev/null"
expect 0 ckpt restore -f second
tail -n 1 "$work/numbers" | grep -q "^$limit " || fail 'the program did not reach its end in the foreground'
"$bin/ckpt" --mount "$work/mnt" restore -f second >/dev/null 2>&1 &
tool=$!
wait_until "kill -0 $pid 2>/dev/null && grep -q '^PPid:.$tool\$' /proc/$pid/status && grep -q '^TracerPid:.0' /proc/$pid/status"
kill -TERM "$tool"
status=0
wait "$tool" || status=$?
[ "$status" -eq 143 ] || fail "restore -f ended with $status after SIGTERM, not 143"
expect 125 ckpt restore -f no-such-image
wait_until "! kill -0 $pid 2>/dev/null"
# an image that is executed: in the mount, and a copy
cp -a "$work/mnt/images/second" "$work/elsewhere"
for image in "$work/mnt/images/second" "$work/elsewhere"; do
  [ -w "$work/numbers" ] && touch -d @0 "$work/numbers"
  expect 0 env PATH="$bin:$PATH" "$image/resume"
  [ "$(stat -c %Y "$work/numbers")" != 0 ] || fail "$image/resume did not run the program"
done
pid=''

# check and gc, mounted and not
expect 0 ckpt check --full
says 'all good'
expect 0 ckpt check second
expect 0 ckpt check --kernel
says 'pidfd_getfd .* 5.6 .*; else no checkpoint'
expect 0 ckpt rm second
expect 1 ckpt rm second
expect 0 ckpt gc --dry-run
says 'would free'
expect 0 ckpt gc
fusermount3 -u "$work/mnt"
wait_until "$bin/ckpt --store $work/store stats >/dev/null 2>&1"
expect 0 "$bin/ckpt" --store "$work/store" --json check --full
says '"good": true'
expect 0 "$bin/ckpt" --store "$work/store" ls
expect 0 "$bin/ckpt" --store "$work/store" gc -n
expect 1 "$bin/ckpt" --store "$work/no-such-store" ls
echo 'all good'
