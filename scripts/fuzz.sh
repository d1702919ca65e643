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
while IFS=: read -r file line; do
  target=${line#func }
  target=${target%%(*}
  targets=$((targets + 1))
  word=ok
  if ! out=$(go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-5s}" -fuzzminimizetime 2s "./$(dirname "$file")" 2>&1); then
    printf '%s\n' "$out"
    status=1 word=FAIL
  fi
  printf '%-4s %s %s\n' "$word" "$(dirname "$file")" "$target"
done < <(grep -roE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*\(' . | sed 's|^\./||' | sort)
echo "$targets fuzz targets"
exit $status
