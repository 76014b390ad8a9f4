# Self-checking programs (tests/programs) through checkpoint and resume, by the end-to-end test that runs on the host too.
#
#   programs.sh FILTER        of gtest
[ -e /dev/fuse ] || { echo 'no /dev/fuse'; exit 1; }
exec "$CKPT_BUILD/bin/programs_test" --gtest_brief=1 --gtest_filter="$1"
