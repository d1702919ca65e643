#!/usr/bin/env bash
# Runs every fuzz target of the tree for a short time each.
#
#   FUZZTIME  how long each target runs, with one worker (default 5s)
#
# The committed seeds in testdata/fuzz are part of every ordinary test run;
# this looks a little further. What it finds is written there as a new seed.
#
# As many packages as there are processors are at it at the same time. Each is built
# once for all its targets, as go test -fuzz would do for each of them.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit
# fuzz BINARY DIR TARGET
fuzz() {
  # shellcheck disable=SC2154 # bins and found are in the environment
  (cd "$2" && "$1" -test.run '^$' -test.fuzz "^$3\$" -test.fuzztime "${FUZZTIME:-5s}" -test.fuzzminimizetime 2s \
    -test.parallel 1 -test.fuzzcachedir "$found/$2" 2>&1)
}

# Go's fuzzer says now and then that its own deadline is a failure, and has no
# input to show for it.
is_deadline() { [[ $1 == *'context deadline exceeded'* && $1 != *'Failing input'* ]]; }

# package DIR TARGET... fuzzes one after the other.
package() {
  local dir=$1 bin=$bins/${1//\//-}.test status=0 target out word
  shift
  if ! out=$(go test -c -fuzz . -o "$bin" "./$dir" 2>&1); then
    printf '%s\nFAIL %s: cannot be built\n' "$out" "$dir"
    return 1
  fi
  for target; do
    word=ok
    if ! out=$(fuzz "$bin" "$dir" "$target") && { ! is_deadline "$out" || ! out=$(fuzz "$bin" "$dir" "$target"); }; then
      printf '%s\n' "$out"
      status=1 word=FAIL
    fi
    printf '%-4s %s %s\n' "$word" "$dir" "$target"
  done
  rm -f "$bin"
  return "$status"
}

if [[ ${1-} == --package ]]; then # by the lines below
  shift
  package "$@"
  exit
fi
bins=$(mktemp -d)
trap 'rm -rf "$bins"' EXIT
found=$(go env GOCACHE)/fuzz/$(go list -m) # where the go command keeps what is worth trying again
export bins found
status=0
# A line for each package with its targets, those with the most first.
lines=$(grep -roE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*\(' . | sed -E 's|^\./||; s|/[^/]*:func | |; s|\($||' | sort |
  awk '{ of[$1] = of[$1] " " $2; n[$1]++ } END { for (dir in of) print n[dir], dir of[dir] }' | sort -k1,1nr -k2 | cut -d' ' -f2-)
xargs -L 1 -P "$(nproc)" ./scripts/fuzz.sh --package <<<"$lines" || status=1
echo "$(($(wc -w <<<"$lines") - $(wc -l <<<"$lines"))) fuzz targets"
exit $status
