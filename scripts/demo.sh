#!/usr/bin/env bash
# Assembles a layered store out of programs of this machine, runs one of them
# from it, and takes everything down again: what `make demo` does.
#
# Root runs it in a mount namespace of its own, others in a user namespace, so that
# nothing is seen outside, and nothing stays, however it ends. It writes to one
# directory, $DEMO_DIR or /tmp/strata-demo, and removes that at the end.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
strata=${STRATA:-$here/bin/strata}

fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }

[ -x "$strata" ] || fail "there is no $strata; run 'make build' first"

if [ -z "${STRATA_DEMO_INSIDE:-}" ]; then
	export STRATA_DEMO_INSIDE=root
	if [ "$(id -u)" = 0 ] && unshare --mount true 2>/dev/null; then
		exec unshare --mount --propagation private -- "$0" "$@"
	fi
	export STRATA_DEMO_INSIDE=user
	unshare --user --map-root-user --mount true 2>/dev/null ||
		fail "this needs root, or user namespaces for ordinary users (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone)"
	exec unshare --user --map-root-user --mount --propagation private -- "$0" "$@"
fi

# --- the scratch directory, and its end

demo=${DEMO_DIR:-${TMPDIR:-/tmp}/strata-demo}
mkdir "$demo" 2>/dev/null || demo=$(mktemp -d "$demo.XXXXXX")
demo=$(cd "$demo" && pwd -P)

cleanup() {
	status=$?
	trap '' INT TERM HUP
	cd /
	if [ -e "$demo/upper/run.json" ]; then
		"$strata" down --upper "$demo/upper" --lazy >/dev/null 2>&1 || true
	fi
	umount "$demo" 2>/dev/null || true # see below; else it is no mount
	chmod -R u+w "$demo" 2>/dev/null || true
	rm -rf --one-file-system "$demo"
	[ $status = 0 ] || printf '\nThe demo ended early; everything it made is gone.\n'
	exit $status
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

if [ "$(stat -f -c %T "$demo")" = overlayfs ]; then
	mount -t tmpfs tmpfs "$demo" # an overlay cannot lie over another one's files, as in a container
fi
cd "$demo"

# --- how it looks

if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold='' plain=''; fi
began=$SECONDS

step() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

# shown prints a command as one would type it; store paths without their hashes.
shown() { printf '$ %s\n' "$*" | sed -E "s|$store/[0-9a-z]{32}-|…-|g"; }

# run shows a command and runs it.
run() {
	shown "$@"
	"$@"
}

# added puts ./NAME into the store, shows it, and leaves the path in $path.
added() {
	shown strata add "$@"
	path=$(strata add "$@")
	printf '%s\n' "$path"
}

strata() { "$strata" "$@"; }

# --- surroundings of our own: the store directory lies in the scratch directory, so
# that no /nix is needed and one that is there is left alone

store=$demo/nix/store
for name in $(compgen -e NIX_ || true); do unset "$name"; done
export NIX_STORE_DIR=$store NIX_STATE_DIR=$demo/nix/var/nix NIX_LOG_DIR=$demo/nix/var/log NIX_CONF_DIR=$demo/etc
export NIX_CONFIG="build-users-group =" STRATA_RUNTIME_DIR=$demo/run LC_ALL=C

# libraries lists the shared libraries of programs, and the loader.
libraries() { for p in "$@"; do ldd "$p"; done | grep -o '/[^ ]*' | sort -u; }

# program gives the program that a name stands for.
program() { readlink -f "$(command -v "$1")" || fail "there is no $1 on this machine"; }

# --- 1

step "1. A lower store out of programs of this machine: bash and perl, their libraries, a text"
bash=$(program bash) perl=$(program perl)
text=$(for f in /usr/share/common-licenses/GPL-3 "$here/LICENSE"; do [ -r "$f" ] && readlink -f "$f" && break; done)
modules=$(perl -e 'for (@INC) { if (-e "$_/List/Util.pm" && -e "$_/strict.pm") { print; last } }')
[ -n "$modules" ] || fail "there are no modules of perl on this machine"

mkdir -p glibc/lib libs/lib bash/bin perl-unwrapped/bin perl/bin word-count/bin base
for lib in $(libraries "$bash" "$perl"); do
	case ${lib##*/} in
	ld-* | ld64* | libc.* | libm.* | libdl.* | libpthread.*) cp -L "$lib" glibc/lib/ ;;
	*) cp -L "$lib" libs/lib/ ;;
	esac
done
cp "$bash" bash/bin/bash
cp "$perl" perl-unwrapped/bin/perl
cp -rL "$modules" perl-modules
cp "$text" license.txt
loader=$(cd glibc/lib && echo ld*)

export NIX_REMOTE="local?root=$demo/base"
printf '$ export NIX_REMOTE=%s\n' "'$NIX_REMOTE'"
added glibc && glibc=$path
added libs --reference "$glibc" && libs=$path
added bash --reference "$glibc" --reference "$libs" && bash=$path
added perl-unwrapped --reference "$glibc" --reference "$libs" && unwrapped=$path
added perl-modules --reference "$glibc" && modules=$path
added license.txt && text=$path

# The program runs by the store's own loader and libraries.
cat >perl/bin/perl <<END
#!$bash/bin/bash
exec $glibc/lib/$loader --library-path $glibc/lib:$libs/lib $unwrapped/bin/perl -I$modules "\$@"
END
chmod +x perl/bin/perl
added perl --reference "$bash" --reference "$glibc" --reference "$libs" --reference "$unwrapped" --reference "$modules" && perl=$path
cat >word-count/bin/word-count <<END
#!$perl/bin/perl
# Counts words, and tells which files the process that does it has mapped.
use strict;
use List::Util qw(sum0);
my (%n, %mapped);
open my \$in, "<", \$ARGV[0] // "$text" or die "\$ARGV[0]: \$!\\n";
while (<\$in>) { \$n{lc \$1}++ while /(\\w+)/g }
my @top = (sort { \$n{\$b} <=> \$n{\$a} || \$a cmp \$b } keys %n)[0 .. 3];
printf "%d words, most of them %s\\n", sum0(values %n), join ", ", grep defined, @top;
open my \$maps, "<", "/proc/self/maps" or die;
while (<\$maps>) { \$mapped{\$1}++ if m{ (/\\S+)\$} }
my \$outside = grep { !m{^$store/} } keys %mapped;
printf "%d files are mapped, %d of them from outside of the store\\n", scalar(keys %mapped), \$outside;
END
chmod +x word-count/bin/word-count
added word-count --reference "$perl" --reference "$text" && count=$path

# --- 2

lower=$demo/base
if [ "$STRATA_DEMO_INSIDE" = root ] && command -v mkfs.erofs >/dev/null && { grep -qw erofs /proc/filesystems || modprobe -q erofs; } 2>/dev/null; then
	step "2. Made into an image, as a release would be"
	lower=$demo/base.erofs
	run mkfs.erofs --quiet base.erofs base
	run ls -sh base.erofs
	chmod -R u+w base && rm -rf base
else
	step "2. It stays a plain directory (an image takes root, mkfs.erofs and a kernel that mounts it)"
fi

# --- 3

step "3. Mounted read-only under a fresh upper, and served"
run strata up --lower "$lower" --upper "$demo/upper" --name demo --detach
NIX_REMOTE="unix://$demo/upper/state/daemon-socket/socket?store=$store"
export NIX_REMOTE
printf "\$ export NIX_REMOTE=%s\n" "'$NIX_REMOTE'"

step "4. The program runs from the merged store"
run strata tree "$count"
run "$count/bin/word-count"

step "5. Something of our own, which refers to what is in the lower"
# shellcheck disable=SC2016 # that shell is to expand it
printf '#!%s/bin/bash\nexec %s/bin/word-count "${BASH_SOURCE[0]}"\n' "$bash" "$count" >count-myself
chmod +x count-myself
added count-myself --reference "$bash" --reference "$count"
run "$path"
run ls "$demo/upper/layer"

step "6. What is in which layer"
run strata status

step "7. Taken down"
run strata down
if [ -e "$count" ]; then fail "the merged store is still there"; fi
printf '\nDone in %d s. Nothing of it stays.\n' $((SECONDS - began))
