#!/usr/bin/env bash
# For `go test -exec`: runs a test binary as an ordinary user although root runs
# go test. The binary is copied, since go's own directory is closed to others.
#
#   AS_USER_GOCACHE  where tests that run go find what it has compiled for that user
set -eu -o pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
bin=$1
shift
cp "$bin" "$dir/"
mkdir "$dir/home" "$dir/tmp"
chown 65534:65534 "$dir/home" "$dir/tmp"
HOME=$dir/home TMPDIR=$dir/tmp GOCACHE=${AS_USER_GOCACHE:-$dir/home/.cache/go-build} setpriv --reuid=65534 --regid=65534 --clear-groups \
  "$dir/$(basename "$bin")" "$@"
