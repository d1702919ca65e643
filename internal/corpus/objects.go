package corpus

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/strata-nix/strata/internal/debian"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/registration"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// RegistrationFile is the name of the registration in an output directory. The
// objects lie in its nix/store.
const RegistrationFile = "registration"

// StoreIn is the store directory of an output directory.
func StoreIn(out string) string { return filepath.Join(out, string(storepath.DefaultDir)) }

// Objects makes real trees of the pinned packages in out, an empty or new
// directory, with the metadata that store objects have. Names, dependencies
// and contents come from the package files, so the result depends on the pins
// alone. What goes on is told to log.
func Objects(ctx context.Context, a *debian.Archive, pins []Pin, out string, log io.Writer) error {
	if err := makeOutput(out); err != nil {
		return err
	}
	bySuite, err := fetchAll(ctx, a, pins, log)
	if err != nil {
		return err
	}
	var objects []*object
	seen := make(storepath.Set)
	for _, suite := range bySuite {
		g := newGraph(suite)
		paths, err := g.paths(0)
		if err != nil {
			return err
		}
		for _, i := range g.order {
			if !seen.Add(paths[i]) {
				continue
			}
			o := &object{deb: suite[i].Filename}
			o.Path, o.References = paths[i], g.references(i, paths)
			objects = append(objects, o)
		}
	}
	fmt.Fprintf(log, "unpacking %d objects\n", len(objects))
	if err := makeObjects(ctx, objects, StoreIn(out)); err != nil {
		return err
	}
	return writeRegistration(out, objects)
}

// object is a store object and the package file it is made of.
type object struct {
	store.PathInfo
	deb string // local name
}

func makeOutput(out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(out)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty", out)
	}
	return os.MkdirAll(StoreIn(out), 0o755)
}

// fetchAll downloads the pinned files and reads what they say of themselves,
// grouped by suite and sorted by name. Filename is the local one.
func fetchAll(ctx context.Context, a *debian.Archive, pins []Pin, log io.Writer) ([][]*debian.Package, error) {
	total := uint64(0)
	for _, p := range pins {
		total += p.Size
	}
	fmt.Fprintf(log, "%d packages, %.1f MB\n", len(pins), float64(total)/1e6)
	bySuite := make(map[string][]*debian.Package)
	for _, pin := range pins {
		file, err := a.File(ctx, pin.File, pin.SHA256)
		if err != nil {
			var gone *debian.GoneError
			if errors.As(err, &gone) {
				err = fmt.Errorf("%w; the lock file wants to be made anew (`corpus lock`)", err)
			}
			return nil, err
		}
		p, err := debian.Control(file)
		if err != nil {
			return nil, err
		}
		p.SHA256, p.Size, p.Filename = pin.SHA256, pin.Size, file
		bySuite[pin.Suite] = append(bySuite[pin.Suite], p)
	}
	var groups [][]*debian.Package
	for _, suite := range slices.Sorted(maps.Keys(bySuite)) {
		pkgs := bySuite[suite]
		slices.SortFunc(pkgs, func(a, b *debian.Package) int { return cmp.Compare(a.Name, b.Name) })
		groups = append(groups, pkgs)
	}
	return groups, nil
}

// makeObjects unpacks the objects, several at a time, since most of the work is
// decompression, and fills in their hashes and sizes.
func makeObjects(ctx context.Context, objects []*object, dir string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, o := range objects {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return o.make(ctx, dir)
		})
	}
	return g.Wait()
}

func (o *object) make(ctx context.Context, dir string) (err error) {
	dst := filepath.Join(dir, o.Path.Base())
	if err := unpack(ctx, o.deb, dst); err != nil {
		return err
	}
	if o.NarHash, o.NarSize, err = hashTree(ctx, dst); err != nil {
		return err
	}
	o.Deriver, err = deriverOf(o.Path)
	return err
}

// hashTree returns the hash and the size of a tree's NAR.
func hashTree(ctx context.Context, path string) (nixhash.Hash, uint64, error) {
	h := sha256.New()
	n := &countingWriter{w: h}
	if err := nar.Dump(ctx, n, path); err != nil {
		return nixhash.Hash{}, 0, err
	}
	return nixhash.Sum(nixhash.SHA256, h), n.n, nil
}

type countingWriter struct {
	w io.Writer
	n uint64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += uint64(n)
	return n, err
}

func writeRegistration(out string, objects []*object) error {
	f, err := os.Create(filepath.Join(out, RegistrationFile))
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	for _, o := range objects {
		w.Write(registration.Append(w.AvailableBuffer(), storepath.DefaultDir, &o.PathInfo))
	}
	return errors.Join(w.Flush(), f.Close())
}
