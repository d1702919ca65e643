package execute

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder/sandbox"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// chroot is what a sandbox has on disk beside the store, so that outputs need
// not be copied from one to the other.
type chroot struct {
	top    string // <store>/<drv>.chroot
	root   string // what is below it lies in the sandbox where it lies here
	mounts []sandbox.Mount
	closed []sandbox.Mount // directories that nobody may write to, once all is there
}

// newChroot makes the directories of a sandbox, and says what else is to be seen.
func newChroot(ctx context.Context, b *build) (*chroot, error) {
	top := b.real(b.job.DrvPath) + ".chroot"
	activity.Logf(ctx, activity.Chatty, "setting up chroot environment in '%s'", top)
	c := &chroot{top: top, root: filepath.Join(top, "root")}
	if err := c.make(ctx, b); err != nil {
		c.remove(ctx)
		return nil, err
	}
	return c, nil
}

func (c *chroot) make(ctx context.Context, b *build) error {
	err := os.Mkdir(c.top, 0o700)
	if errors.Is(err, fs.ErrExist) { // from a process that was killed
		if _, err = nar.RemoveTree(ctx, c.top); err == nil {
			err = os.Mkdir(c.top, 0o700)
		}
	}
	if err != nil {
		return fmt.Errorf("creating the directory of the sandbox: %w", err)
	}
	storeDir := filepath.Join(c.root, string(b.dir))
	for _, d := range []struct {
		path string
		mode fs.FileMode
		own  *owner
	}{
		{storeDir, fs.ModeSticky | 0o775, b.group()},
		{filepath.Join(c.root, "tmp"), fs.ModeSticky | 0o777, nil},
	} {
		if err := makeDir(d.path, d.mode, d.own); err != nil {
			return fmt.Errorf("creating a directory of the sandbox: %w", err)
		}
	}
	if b.job.Drv.IsBuiltin() {
		return nil // it needs no more than a place for its outputs
	}
	shown, err := b.shown(ctx, c.root)
	if err != nil {
		return err
	}
	shown.put(sandbox.Mount{Kind: sandbox.Own, Source: storeDir, Target: string(b.dir)})
	if _, taken := shown["/tmp"]; !taken {
		shown.put(sandbox.Mount{Kind: sandbox.Own, Source: filepath.Join(c.root, "tmp"), Target: "/tmp"})
	}
	if err := c.makeEtc(b, shown); err != nil {
		return err
	}
	c.mounts = append(shown.sorted(), c.closed...)
	return nil
}

// group is the owner of the store in the sandbox: root, and the group of builders.
func (b *build) group() *owner {
	if b.own == nil {
		return nil
	}
	return &owner{uid: 0, gid: b.own.gid}
}

// makeDir makes a directory with exactly that mode, and those above it.
func makeDir(path string, mode fs.FileMode, own *owner) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	if own != nil {
		if err := os.Chown(path, own.uid, own.gid); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}

// remove deletes it. No process of the builder may be left.
func (c *chroot) remove(ctx context.Context) {
	if _, err := nar.RemoveTree(ctx, c.top); err != nil {
		activity.Warnf(ctx, "removing the directory of a sandbox: %v", err)
	}
}

// mounts are those of a sandbox, by their targets.
type mounts map[string]sandbox.Mount

func (m mounts) put(mount sandbox.Mount) { m[mount.Target] = mount }

// sorted puts each after those that it lies in.
func (m mounts) sorted() []sandbox.Mount {
	list := make([]sandbox.Mount, 0, len(m))
	for _, target := range slices.Sorted(maps.Keys(m)) {
		list = append(list, m[target])
	}
	return list
}

// shown is what the sandbox shows of this machine: what settings and hooks
// say, the closures of what of it is in the store, the build directory, and the
// inputs of the derivation. root is where the sandbox lies.
func (b *build) shown(ctx context.Context, root string) (mounts, error) {
	m := mounts{}
	paths := b.o.SandboxPaths
	if err := b.showClosures(ctx, m, paths); err != nil {
		return nil, err
	}
	impure, err := b.impureHostDeps()
	if err != nil {
		return nil, err
	}
	hooked, err := b.preBuildHook(ctx, root)
	if err != nil {
		return nil, err
	}
	for _, p := range slices.Concat(paths, impure, hooked) {
		if err := b.showPath(m, p); err != nil {
			return nil, err
		}
	}
	seen := b.seenBuildDir()
	if strings.HasPrefix(string(b.dir), seen) {
		return nil, errors.New("`sandbox-build-dir` must not contain the storeDir")
	}
	m.put(sandbox.Mount{Kind: sandbox.Own, Source: b.tmp.path, Target: seen})
	for _, info := range b.job.Inputs {
		m.put(b.input(info.Path))
	}
	// What is built must not be there, even if settings show it.
	for _, out := range b.job.Outputs {
		if !out.Path.IsZero() {
			delete(m, b.dir.Print(out.Path))
		}
	}
	return m, nil
}

// input shows an object of the store.
func (b *build) input(p storepath.Path) sandbox.Mount {
	return sandbox.Mount{Kind: sandbox.ReadOnly, Source: b.real(p), Target: b.dir.Print(p)}
}

// showPath shows a path of this machine, which settings name.
func (b *build) showPath(m mounts, p SandboxPath) error {
	target, source := p.Target, p.Source
	if source == "" {
		source = target
	}
	if source == "/proc" {
		return nil // there is another one
	}
	if !filepath.IsAbs(target) || !filepath.IsAbs(source) {
		return fmt.Errorf("sandbox path '%s=%s' is not absolute", target, source)
	}
	mount := sandbox.Mount{Kind: sandbox.Writable, Source: filepath.Clean(source), Target: filepath.Clean(target), Optional: p.Optional}
	if _, _, err := b.dir.Split(mount.Source); err == nil {
		// An object of this store, wherever that is.
		mount.Kind = sandbox.ReadOnly
		mount.Source = filepath.Join(b.s.RealDir(), strings.TrimPrefix(mount.Source, string(b.dir)))
	}
	m.put(mount)
	return nil
}

// showClosures shows what those sandbox paths need that are in the store.
func (b *build) showClosures(ctx context.Context, m mounts, paths []SandboxPath) error {
	var roots []storepath.Path
	for _, sp := range paths {
		source := sp.Source
		if source == "" {
			source = sp.Target
		}
		if p, _, err := b.dir.Split(source); err == nil {
			roots = append(roots, p)
		}
	}
	if len(roots) == 0 {
		return nil
	}
	valid, err := b.s.ValidPaths(ctx, storepath.SortUnique(roots))
	if err != nil {
		return err
	}
	infos, err := store.Closure(ctx, b.s, valid)
	if err != nil {
		return fmt.Errorf("while processing sandbox paths: %w", err)
	}
	for _, info := range infos {
		m.put(b.input(info.Path))
	}
	return nil
}

// impureHostDeps are the paths of this machine that the derivation asks for, if it
// may.
func (b *build) impureHostDeps() ([]SandboxPath, error) {
	var paths []SandboxPath
	for _, dep := range b.attrs.ImpureHostDeps {
		clean := filepath.Clean("/" + dep)
		if !slices.ContainsFunc(b.o.AllowedImpureHostDeps, func(prefix string) bool { return within(clean, filepath.Clean(prefix)) }) {
			return nil, failf(store.MiscFailure, "derivation '%s' requested impure path '%s', but it was not in allowed-impure-host-deps",
				b.dir.Print(b.job.DrvPath), dep)
		}
		paths = append(paths, SandboxPath{Target: clean, Source: clean, Optional: true})
	}
	return paths, nil
}

// within tells whether a clean path is dir or in it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
