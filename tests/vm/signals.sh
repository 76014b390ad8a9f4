# SIGCKPT and SIGCKPTEXIT: the module, loaded, in use and gone.
set -e
fail() { echo "signals.sh: $*"; exit 1; }
insmod /lib/modules/ckpt.ko sigckpt=62 sigckptexit=62 2>/dev/null && fail 'two signals of one number are accepted'
insmod /lib/modules/ckpt.ko
[ -c /dev/ckpt ] || fail 'no /dev/ckpt'
"$CKPT_BUILD/bin/vm/signals_test" --gtest_brief=1 "$@"
"$CKPT_BUILD/bin/vm/device_stress" 60
with=$("$CKPT_BUILD/bin/vm/signal_cost")
# With signals on their way a moment before.
sleep 1000 & sleeper=$!
for signo in 62 63 62 63; do kill -$signo $sleeper; done
unload ckpt
kill $sleeper
without=$("$CKPT_BUILD/bin/vm/signal_cost")
echo "a caught signal of another number takes $with ns with the module, $without ns without"
[ ! -e /dev/ckpt ] || fail '/dev/ckpt is left'
# Without the module it is a signal like any other.
status=0
sh -c 'kill -62 $$' || status=$?
[ $status = 190 ] || fail "without the module the signal ends with $status"
