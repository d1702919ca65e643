package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/strata-nix/strata/internal/debian"
)

// treeFormat is part of a tree's name in the cache; another number makes all
// trees anew.
const treeFormat = 1

// treePackages are installed besides the minimal system.
var treePackages = []string{"nix-bin", "ca-certificates"}

// suiteOf says which Debian suite has which stock Nix. The versions are those
// of the protocol generations that strata promises to serve.
var suiteOf = []struct{ nix, suite string }{
	{"2.8", "bookworm"},
	{"2.26", "trixie"},
	{"2.34", "forky"},
}

// NixVersions are the versions of stock Nix that Nix knows how to get, oldest first.
func NixVersions() []string {
	var versions []string
	for _, s := range suiteOf {
		versions = append(versions, s.nix)
	}
	return versions
}

// Tree returns the root directory of a minimal Debian system that holds stock
// Nix of the given version. It is made with debootstrap if the cache does not
// have it, which needs root and a Debian mirror and takes about a minute; what
// that prints goes to log. A recent failure is not tried again unless retry
// is set. The tree is shared: it must not be changed.
func Tree(ctx context.Context, nixVersion string, retry bool, log io.Writer) (string, error) {
	suite := ""
	for _, s := range suiteOf {
		if s.nix == nixVersion {
			suite = s.suite
		}
	}
	if suite == "" {
		return "", fmt.Errorf("no Debian suite is known for Nix %s; there are %s", nixVersion, strings.Join(NixVersions(), ", "))
	}
	name := fmt.Sprintf("debian-%s-v%d", suite, treeFormat)
	return cached(ctx, name, retry, func(ctx context.Context, dir string) error {
		return makeTree(ctx, suite, nixVersion, dir, log)
	})
}

func makeTree(ctx context.Context, suite, nixVersion, dir string, log io.Writer) error {
	if os.Geteuid() != 0 || !inInitialUserNS() {
		return errors.New("making it needs root (`make test-trees`)")
	}
	debootstrap, err := findTool("debootstrap")
	if err != nil {
		return err
	}
	script, err := bootstrapScript(suite)
	if err != nil {
		return err
	}
	mirror, err := debian.Mirror()
	if err != nil {
		return err
	}
	// Whatever these mount goes with their mount namespace, so that a killed
	// run leaves a directory that can simply be removed.
	err = run(ctx, log, nil, debootstrap, "--variant=minbase", suite, dir, mirror, script)
	if err != nil {
		return err
	}
	// apt's own verdict does not count: one of the dependencies, a Perl
	// driver, cannot be configured in forky, and Nix does without it.
	aptErr := run(ctx, log, strings.NewReader(installScript), "/bin/sh", append([]string{"-s", dir}, treePackages...)...)
	if err := checkTree(ctx, dir, nixVersion); err != nil {
		return errors.Join(err, aptErr)
	}
	return slimTree(dir)
}

// installScript installs packages ($2…) in the tree $1.
const installScript = `set -e
tree=$1; shift
mount -t proc proc "$tree/proc"
mount --rbind /dev "$tree/dev"
mount --rbind /sys "$tree/sys"
cp -L /etc/resolv.conf "$tree/etc/resolv.conf" || true
printf '#!/bin/sh\nexit 101\n' > "$tree/usr/sbin/policy-rc.d"
chmod +x "$tree/usr/sbin/policy-rc.d"
apt() {
	chroot "$tree" env DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin \
		apt-get -q -y -o APT::Install-Recommends=false -o Acquire::Check-Valid-Until=false "$@"
}
apt update
apt install "$@"
`

// bootstrapScript finds debootstrap's script for a suite. One that is younger
// than this machine's debootstrap is made like sid.
func bootstrapScript(suite string) (string, error) {
	dir := os.Getenv("DEBOOTSTRAP_DIR")
	if dir == "" {
		dir = "/usr/share/debootstrap"
	}
	for _, name := range []string{suite, "sid"} {
		script := filepath.Join(dir, "scripts", name)
		if _, err := os.Stat(script); err == nil {
			return script, nil
		}
	}
	return "", fmt.Errorf("debootstrap has no script for %s or sid in %s/scripts", suite, dir)
}

// checkTree sees that the tree's nix runs and is the version it should be.
func checkTree(ctx context.Context, dir, nixVersion string) error {
	env := &NixEnv{tree: dir, vars: map[string]string{"PATH": "/usr/bin"}, Dir: "/"}
	out, err := env.Command(ctx, "nix", "--version").CombinedOutput()
	if err != nil {
		return fmt.Errorf("nix does not run in the tree: %w: %s", err, bytes.TrimSpace(out))
	}
	got := strings.Fields(string(out))
	if len(got) == 0 || !strings.HasPrefix(got[len(got)-1]+".", nixVersion+".") {
		return fmt.Errorf("the tree should hold Nix %s and has %q", nixVersion, bytes.TrimSpace(out))
	}
	return nil
}

// slimTree drops what only apt needs.
func slimTree(dir string) error {
	for _, sub := range []string{"var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"} {
		if err := os.RemoveAll(filepath.Join(dir, sub)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// run runs a command in a mount namespace of its own. The error of a failed one
// ends with the last of its output.
func run(ctx context.Context, log io.Writer, stdin io.Reader, name string, args ...string) error {
	tail := &tailBuffer{max: 2000}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = stdin
	cmd.Stdout = io.MultiWriter(log, tail)
	cmd.Stderr = cmd.Stdout
	cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "NIX_") })
	attr := Namespace{}.sysProcAttr()
	attr.Cloneflags, attr.Unshareflags = 0, attr.Cloneflags // unsharing also stops propagation
	attr.Setpgid = true
	cmd.SysProcAttr = attr
	cmd.Cancel = func() error { return killGroup(cmd) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w; its output ended:\n%s", filepath.Base(name), err, tail.b)
	}
	return nil
}

// tailBuffer keeps the last max bytes written to it.
type tailBuffer struct {
	b   []byte
	max int
}

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - t.max; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}
