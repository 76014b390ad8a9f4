#!/bin/bash
# systemd's own opinion of the unit, with the program that was built in the place of the installed one.
#
#   service_test.sh SYSTEMD_ANALYZE UNIT BIN_DIR
set -euo pipefail
analyze=$1 unit=$2 bin=$3
work=$(mktemp -d "${TMPDIR:-/tmp}/service-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
verify() {
  sed -e "s|^ExecStart=[^ ]*/ckptfs |ExecStart=$bin/ckptfs |" -e "$1" "$unit" >"$work/ckptfs.service"
  "$analyze" verify --man=no --recursive-errors=no "$work/ckptfs.service"
}
verify '' || { echo "service_test: $unit is not as systemd wants it" >&2; exit 1; }
! verify 's/^Type=notify/Type=notfy/' 2>"$work/complaint" || { echo "service_test: nothing is found wrong" >&2; exit 1; }
grep -q notfy "$work/complaint"
