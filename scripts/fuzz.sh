#!/usr/bin/env bash
# Runs every fuzz target of the tree for a short time each.
#
#   FUZZTIME  how long each target runs (default 5s)
#
# The committed seeds in testdata/fuzz are part of every ordinary test run;
# this looks a little further. What it finds is written there as a new seed.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit
status=0 targets=0

fuzz() { go test -run '^$' -fuzz "^$2\$" -fuzztime "${FUZZTIME:-5s}" -fuzzminimizetime 2s "$1" 2>&1; }

# Go's fuzzer says now and then that its own deadline is a failure, and has no
# input to show for it.
is_deadline() { [[ $1 == *'context deadline exceeded'* && $1 != *'Failing input'* ]]; }

while IFS=: read -r file line; do
  target=${line#func }
  target=${target%%(*}
  targets=$((targets + 1))
  word=ok
  dir=./$(dirname "$file")
  if ! out=$(fuzz "$dir" "$target") && { ! is_deadline "$out" || ! out=$(fuzz "$dir" "$target"); }; then
    printf '%s\n' "$out"
    status=1 word=FAIL
  fi
  printf '%-4s %s %s\n' "$word" "$(dirname "$file")" "$target"
done < <(grep -roE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*\(' . | sed 's|^\./||' | sort)
echo "$targets fuzz targets"
exit $status
