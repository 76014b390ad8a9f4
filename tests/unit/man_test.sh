#!/bin/bash
# The manual against the programs: every option of --help is in it, and no other; every word of ctl; every field that the
# engine writes into an image.
#
#   man_test.sh BIN_DIR SOURCE_DIR
set -euo pipefail
bin=$1 source=$2
failures=0
complain() { echo "man_test: $*" >&2; failures=$((failures + 1)); }

# A page as plain words: roff's escapes and font macros taken out.
plain() { sed -e 's/\\-/-/g' -e 's/\\f[A-Z]//g' -e 's/^\.[A-Z]* *//' -e 's/"//g' "$source/man/$1"; }
long_options() { grep -oE -- '--[a-z][a-z-]+' | sort -u; }

page=$(plain ckpt.1)
{
  "$bin/ckpt" --help
  for command in save restore ls log rm diff seal check gc stats; do "$bin/ckpt" "$command" --help; done
} >"${TMPDIR:-/tmp}/man_test.$$"
trap 'rm -f "${TMPDIR:-/tmp}/man_test.$$"' EXIT
while read -r option; do
  grep -qE -- "$option([^a-z-]|$)" <<<"$page" || complain "ckpt.1 lacks $option"
done < <(long_options <"${TMPDIR:-/tmp}/man_test.$$")
while read -r option; do
  grep -qE -- "$option([^a-z-]|$)" "${TMPDIR:-/tmp}/man_test.$$" || complain "ckpt has no $option, which ckpt.1 tells of"
done < <(long_options <<<"$page")
while read -r command; do
  grep -qE "ckpt $command( |\$)" <<<"$page" || complain "ckpt.1 lacks the command $command"
done < <("$bin/ckpt" --help | sed -n '/^Subcommands:/,$s/^  \([a-z]*\) .*/\1/p')

page=$(plain ckptfs.1)
while read -r option; do
  grep -q -- "$option" <<<"$page" || complain "ckptfs.1 lacks -o $option"
done < <("$bin/ckptfs" --help | sed -n '1,/engine=/s/^ *-o \([a-z_]*\).*/\1/p')

page=$(plain ckpt-ctl.5)
while read -r word; do
  grep -qw -- "$word" <<<"$page" || complain "ckpt-ctl.5 lacks $word"
done < <(grep -oE '== "[a-z]+"' "$source/ckptfs/command.cpp" | grep -oE '[a-z]+' | sort -u)

page=$(plain ckpt_checkpoint.2) overview=$(plain ckpt.7)
while read -r flag; do
  grep -qw -- "$flag" <<<"$page" || complain "ckpt_checkpoint.2 lacks $flag"
  grep -qw -- "$flag" <<<"$overview" || complain "ckpt.7 lacks $flag"
done < <(grep -oE '#define (CKPT_[A-Z_]+|SIG[A-Z]+) +[0-9]' "$source/libckpt/ckpt.h" | cut -d' ' -f2)
# The program of the manual and of README is the one that a test runs.
for file in man/ckpt_checkpoint.2 README.md; do
  diff <(sed -n '/^#include <ckpt.h>/,$p' "$source/libckpt/example/sigckpt.c") \
    <(sed -n '/^#include <ckpt.h>/,$p' "$source/$file" | sed 's/\\e/\\/g' | awk '/^int main/ { main = 1 } { print } main && /^}$/ { exit }') \
    >/dev/null || complain "$file does not show libckpt/example/sigckpt.c"
done

page=$(plain ckpt-image.5)
while read -r field; do
  grep -qE "(^|[^a-z_])$field([^a-z_]|\$)" <<<"$page" || complain "ckpt-image.5 lacks the field $field"
done < <(grep -rhoE '\b(out|record|r)\.add(_hex)?\("[a-z_]+"' "$source/engine/answer.cpp" "$source/engine/kinds" "$source/engine/memory" |
  grep -oE '"[a-z_]+"' | tr -d '"' | sort -u)
while read -r field; do
  grep -qw -- "$field" <<<"$page" || complain "ckpt-image.5 lacks the manifest's $field"
done < <(grep -oE 'field\("[a-z_]+"' "$source/engine/image/manifest.cpp" | grep -oE '"[a-z_]+"' | tr -d '"' | sort -u)

if command -v groff >/dev/null; then
  for file in "$source"/man/*.[1-9]; do
    warnings=$(groff -t -man -Tutf8 -ww -z "$file" 2>&1) || true
    [ -z "$warnings" ] || complain "$warnings"
  done
fi
[ "$failures" -eq 0 ]
