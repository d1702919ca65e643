package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

type addOptions struct {
	mode   string
	name   string
	algo   string
	refs   []string
	dryRun bool
	json   bool
}

func newAddCommand(g *globals) *cobra.Command {
	var o addOptions
	cmd := &cobra.Command{
		Use:   "add PATH...",
		Short: "Add files or directories to the store",
		Long: `Copy files or directories into the store, where their paths follow from their
contents, and print those paths. Symlinks are added as symlinks.

The mode says what is hashed: nar the tree as a Nix archive, flat the bytes of a
file, text the same for a file that might refer to store paths (sha256 only),
git the tree as a Git object.`,
		Example: "  strata add ./src\n  strata add --mode flat --name hello-2.12.tar.gz ~/Downloads/hello.tar.gz",
		Args:    someArgs,
		RunE:    runner(func(ctx context.Context, args []string) error { return runAdd(ctx, g, o, args) }),
	}
	f := cmd.Flags()
	f.StringVar(&o.mode, "mode", "nar", "how to hash: `nar, flat, text or git`")
	f.StringVar(&o.name, "name", "", "the `NAME` in the store (default: the last component of the path)")
	f.StringVar(&o.algo, "hash-algo", "sha256", "the hash `ALGORITHM`: sha256, sha512, sha1, md5 or blake3")
	f.StringArrayVar(&o.refs, "reference", nil, "what is added refers to the store path `PATH`; may be repeated; for nar with sha256, and text")
	f.BoolVar(&o.dryRun, "dry-run", false, "only print the path")
	f.BoolVar(&o.json, "json", false, "print the paths as a JSON list")
	return cmd
}

func runAdd(ctx context.Context, g *globals, o addOptions, args []string) error {
	spec, err := o.spec()
	if err != nil {
		return &usageError{err}
	}
	if o.name != "" && len(args) > 1 {
		return &usageError{errors.New("--name is for one path, and several are given")}
	}
	in := intake{name: o.name, spec: spec}
	if in.refs, err = g.objects(o.refs); err != nil {
		return err
	}
	var added []string
	if o.dryRun {
		added, err = in.predictAll(ctx, g, args)
	} else {
		err = g.with(ctx, func(st store.Store) error {
			added, err = in.addAll(ctx, st, args)
			return err
		})
	}
	// What was added before an error is in the store: say so.
	if o.json && err == nil {
		return g.out.printJSON(added)
	}
	for _, p := range added {
		err = errors.Join(err, g.out.println(p))
	}
	return err
}

func (o addOptions) spec() (storepath.Spec, error) {
	method, err := storepath.ParseMethod(o.mode)
	if err != nil {
		return storepath.Spec{}, err
	}
	algo, err := nixhash.ParseAlgorithm(o.algo)
	return storepath.Spec{Method: method, Algorithm: algo}, err
}

// intake is what all that is added has in common.
type intake struct {
	name string // "": that of the file
	spec storepath.Spec
	refs []storepath.Path
}

func (in intake) addAll(ctx context.Context, st store.Store, args []string) ([]string, error) {
	adder, err := store.Need[store.DumpAdder](st, "addToStore")
	if err != nil {
		return nil, err
	}
	var ao store.AddOptions
	if r, ok := store.As[store.TempRooter](st); ok {
		ao.Roots = r.NewTempRoots()
		defer ao.Roots.Close()
	}
	var added []string
	for _, arg := range args {
		s, err := in.open(ctx, arg)
		if err != nil {
			return added, err
		}
		info, err := adder.AddDump(ctx, s.dump, ao)
		s.close()
		if err != nil {
			return added, fmt.Errorf("adding '%s': %w", arg, err)
		}
		added = append(added, st.Dir().Print(info.Path))
	}
	return added, nil
}

// source is a file or directory on its way into the store.
type source struct {
	dump  store.Dump
	close func()
}

// open opens what arg names. The contents are those of a file for the methods
// that hash a file, and else a NAR.
func (in intake) open(ctx context.Context, arg string) (*source, error) {
	name := in.name
	if name == "" {
		abs, err := filepath.Abs(arg)
		if err != nil {
			return nil, err
		}
		name = filepath.Base(abs)
	}
	if err := storepath.CheckName(name); err != nil {
		return nil, &usageError{fmt.Errorf("%w; choose another with --name", err)}
	}
	d := store.Dump{Name: name, Spec: in.spec, References: in.refs}
	d.NAR = in.spec.Method == storepath.Recursive || in.spec.Method == storepath.Git
	if d.NAR {
		if _, err := os.Lstat(arg); err != nil {
			return nil, err
		}
		pr, pw := io.Pipe()
		go func() { pw.CloseWithError(nar.Dump(ctx, pw, arg)) }()
		d.Contents = pr
		return &source{d, func() { _ = pr.Close() }}, nil
	}
	f, err := os.Open(arg)
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		_ = f.Close()
		return nil, errors.Join(err, fmt.Errorf("'%s' is not a regular file, which the mode %s is for", arg, in.spec.Method))
	}
	d.Contents = f
	return &source{d, func() { _ = f.Close() }}, nil
}

// predictAll computes the paths without a store.
func (in intake) predictAll(ctx context.Context, g *globals, args []string) ([]string, error) {
	dir, err := g.storeDir(g.storeURI)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, arg := range args {
		s, err := in.open(ctx, arg)
		if err != nil {
			return paths, err
		}
		p, err := predict(dir, s.dump)
		s.close()
		if err != nil {
			return paths, fmt.Errorf("hashing '%s': %w", arg, err)
		}
		paths = append(paths, dir.Print(p))
	}
	return paths, nil
}

func predict(dir storepath.Dir, d store.Dump) (storepath.Path, error) {
	var h nixhash.Hash
	var err error
	if d.Spec.Method == storepath.Git {
		var id []byte
		if id, _, err = nar.GitHash(d.Contents, d.Spec.Algorithm.New); err == nil {
			h, err = nixhash.New(d.Spec.Algorithm, id)
		}
	} else {
		w := d.Spec.Algorithm.New()
		_, err = io.Copy(w, d.Contents)
		h = nixhash.Sum(d.Spec.Algorithm, w)
	}
	if err != nil {
		return storepath.Path{}, err
	}
	return dir.Make(d.Name, storepath.ContentAddress{Method: d.Spec.Method, Hash: h}, storepath.References{Others: d.References})
}
