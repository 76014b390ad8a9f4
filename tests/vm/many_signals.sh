# Many signals to one program.
#
#   many_signals.sh NUMBER
insmod /lib/modules/ckpt.ko || { echo 'many_signals.sh: the module is not loaded'; exit 1; }
CKPT_MANY_SIGNALS=$1 "$CKPT_BUILD/bin/vm/many_signals_test" --gtest_brief=1 || exit 1
rmmod ckpt || { echo 'many_signals.sh: the module is still in use'; exit 1; }
