# The module's part in a checkpoint: its interface, its snapshots, and whole checkpoints with engine=kernel.
fail() { echo "kernel_engine.sh: $*"; exit 1; }
insmod /lib/modules/ckpt.ko || fail 'the module is not loaded'
"$CKPT_BUILD/bin/vm/device_test" --gtest_brief=1 || exit 1
"$CKPT_BUILD/bin/vm/stop_test" --gtest_brief=1 || exit 1
"$CKPT_BUILD/bin/vm/snapshot_stress" 20000 || exit 1
"$CKPT_BUILD/bin/vm/engines_test" --gtest_brief=1 || exit 1
"$CKPT_BUILD/bin/memory_test" --gtest_brief=1 --gtest_filter='*EveryStrategy*/kernel*:ChooseSnapshot.*' || exit 1
programs='*/mem_heap:*/mem_private_file:*/mem_sparse:*/mem_shared_anonymous:*/threads'
export CKPTFS_TEST_OPTIONS=engine=kernel
"$CKPT_BUILD/bin/programs_test" --gtest_brief=1 --gtest_filter="*.go_on/mem_snapshot:$programs:-*.undisturbed/*" || exit 1
unset CKPTFS_TEST_OPTIONS
"$CKPT_BUILD/bin/vm/engine_ratio" || exit 1
unload ckpt || exit 1
