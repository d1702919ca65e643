#!/usr/bin/env bash
# What `make lint` checks. Reports everything before it fails.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit
status=0

unformatted=$(gofmt -l -s .)
if [[ -n $unformatted ]]; then
  printf 'not formatted (gofmt -s):\n%s\n' "$unformatted"
  status=1
fi
go vet ./... || status=1
bin/staticcheck ./... || status=1

mapfile -t scripts < <(git ls-files '*.sh' contrib/lower .ci/run)
if command -v shellcheck >/dev/null; then
  shellcheck "${scripts[@]}" || status=1
else
  echo "shellcheck is not installed: ${#scripts[@]} scripts were not checked"
  [[ -z ${CI-} ]] || status=1
fi
exit $status
