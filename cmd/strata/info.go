package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

type infoOptions struct {
	all         bool
	recursive   bool
	size        bool
	closureSize bool
	human       bool
	sigs        bool
	json        bool
}

func newInfoCommand(g *globals) *cobra.Command {
	var o infoOptions
	cmd := &cobra.Command{
		Use:   "info [PATH...]",
		Short: "Print what a store knows about paths",
		Long: `Print what a store knows about paths: everything, or, with --size, --closure-size
or --sigs, one line for each path with just that.

With --json the output is that of 'nix path-info --json --json-format 1'; it is
described in doc/formats/cli-json.md. A path that is not valid is null there.`,
		Args: anyArgs,
		RunE: runner(func(ctx context.Context, args []string) error { return runInfo(ctx, g, o, args) }),
	}
	f := cmd.Flags()
	f.BoolVar(&o.all, "all", false, "all paths of the store (of its upper layer, if it has several)")
	f.BoolVarP(&o.recursive, "recursive", "r", false, "also all paths that they refer to, directly or not")
	f.BoolVarP(&o.size, "size", "s", false, "print the size of the NAR in bytes")
	f.BoolVarP(&o.closureSize, "closure-size", "S", false, "print the size of the NARs of the closure in bytes")
	f.BoolVarP(&o.human, "human-readable", "H", false, "print sizes like 5.7 GiB")
	f.BoolVar(&o.sigs, "sigs", false, "print signatures and content addresses")
	f.BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// infoBatch is how many paths are asked for at once: with --all there may be
// more than fit in memory.
const infoBatch = 4096

func runInfo(ctx context.Context, g *globals, o infoOptions, args []string) error {
	if o.all == (len(args) > 0) {
		return &usageError{errors.New("give paths or --all, and not both")}
	}
	named, err := g.objects(args)
	if err != nil {
		return err
	}
	return g.with(ctx, func(st store.Store) error {
		if l, ok := store.As[store.InfoLister](st); ok && o.all && o.json && !o.closureSize {
			return streamInfos(ctx, g.out, st.Dir(), l)
		}
		paths, err := selectPaths(ctx, st, o.all, named)
		if err != nil {
			return err
		}
		if o.recursive && !o.all { // --all is closed under references
			closure, err := closureOf(ctx, st, paths)
			if err != nil {
				return err
			}
			paths = storepath.SortUnique(pathsOf(closure))
		}
		return o.print(ctx, g.out, st, paths)
	})
}

// infoPrinter prints some path infos. Those of JSON may be nil.
type infoPrinter interface {
	print(p storepath.Path, info *store.PathInfo) error
	end() error
}

func (o infoOptions) print(ctx context.Context, out *output, st store.Store, paths []storepath.Path) error {
	closures, err := o.closureSizes(ctx, st, paths)
	if err != nil {
		return err
	}
	var pr infoPrinter
	switch {
	case o.json:
		pr = &jsonInfos{out: out, dir: st.Dir(), closures: closures}
	case o.size || o.closureSize || o.sigs:
		pr = &infoTable{o: o, out: out, dir: st.Dir(), closures: closures, width: widest(st.Dir(), paths)}
	default:
		pr = &infoBlocks{out: out, dir: st.Dir()}
	}
	for q, err := range queryInfos(ctx, st, paths) {
		switch {
		case err != nil:
			return err
		case q.info == nil && o.all: // deleted meanwhile
			continue
		case q.info == nil && !o.json:
			return &store.InvalidPathError{Path: st.Dir().Print(q.path)}
		}
		if err := pr.print(q.path, q.info); err != nil {
			return err
		}
	}
	return pr.end()
}

// queriedInfo is a path and what is known about it: nil if it is not valid.
type queriedInfo struct {
	path storepath.Path
	info *store.PathInfo
}

// queryInfos asks for the infos of paths, some thousands at a time.
func queryInfos(ctx context.Context, st store.Store, paths []storepath.Path) iter.Seq2[queriedInfo, error] {
	return func(yield func(queriedInfo, error) bool) {
		for batch := range slices.Chunk(paths, infoBatch) {
			infos, err := st.PathInfos(ctx, batch)
			if err != nil {
				yield(queriedInfo{}, err)
				return
			}
			for i, info := range infos {
				if !yield(queriedInfo{batch[i], info}, nil) {
					return
				}
			}
		}
	}
}

// selectPaths sorts the paths that were named, or lists the whole store.
func selectPaths(ctx context.Context, st store.Store, all bool, named []storepath.Path) ([]storepath.Path, error) {
	if !all {
		return storepath.SortUnique(named), nil
	}
	l, err := store.Need[store.Lister](st, "queryAllValidPaths")
	if err != nil {
		return nil, err
	}
	var paths []storepath.Path
	for p, err := range l.AllPaths(ctx) {
		if err != nil {
			return nil, err
		}
		paths = append(paths, p)
	}
	return storepath.SortUnique(paths), nil
}

// closureSizes computes them for all of paths that are valid, if wanted.
func (o infoOptions) closureSizes(ctx context.Context, st store.Store, paths []storepath.Path) (map[storepath.Path]uint64, error) {
	if !o.closureSize {
		return nil, nil
	}
	valid, err := st.ValidPaths(ctx, paths)
	if err != nil {
		return nil, err
	}
	closure, err := closureOf(ctx, st, valid)
	if err != nil {
		return nil, err
	}
	infos := make(map[storepath.Path]*store.PathInfo, len(closure))
	for _, info := range closure {
		infos[info.Path] = info
	}
	sizes := make(map[storepath.Path]uint64, len(valid))
	for _, p := range valid {
		sizes[p] = closureSize(infos, p)
	}
	return sizes, nil
}

func closureSize(infos map[storepath.Path]*store.PathInfo, p storepath.Path) (total uint64) {
	seen := storepath.NewSet(p)
	for todo := []storepath.Path{p}; len(todo) > 0; {
		info := infos[todo[len(todo)-1]]
		todo = todo[:len(todo)-1]
		total += info.NarSize
		for _, r := range info.References {
			if seen.Add(r) {
				todo = append(todo, r)
			}
		}
	}
	return total
}

func totalSize(infos []*store.PathInfo) (total uint64) {
	for _, info := range infos {
		total += info.NarSize
	}
	return total
}

func widest(dir storepath.Dir, paths []storepath.Path) (width int) {
	for _, p := range paths {
		width = max(width, len(dir)+1+len(p.Base()))
	}
	return width
}

// infoTable prints a line for each path.
type infoTable struct {
	o        infoOptions
	out      *output
	dir      storepath.Dir
	closures map[storepath.Path]uint64
	width    int
}

func (t *infoTable) print(p storepath.Path, info *store.PathInfo) error {
	line := fmt.Sprintf("%-*s", t.width, t.dir.Print(p))
	if t.o.size {
		line += t.number(info.NarSize)
	}
	if t.o.closureSize {
		line += t.number(t.closures[p])
	}
	if t.o.sigs {
		line += "\t" + strings.Join(claims(info), " ")
	}
	return t.out.println(line)
}

func (t *infoTable) number(n uint64) string {
	if t.o.human {
		return fmt.Sprintf("\t%11s", size(n))
	}
	return fmt.Sprintf("\t%11d", n)
}

func (t *infoTable) end() error { return nil }

// claims are the reasons to believe that an object is what its path says.
func claims(info *store.PathInfo) []string {
	var c []string
	if info.Ultimate {
		c = append(c, "ultimate")
	}
	if !info.CA.IsZero() {
		c = append(c, "ca:"+info.CA.String())
	}
	for _, s := range info.Signatures {
		c = append(c, string(s))
	}
	return c
}

// infoBlocks prints everything, with an empty line between two paths.
type infoBlocks struct {
	out *output
	dir storepath.Dir
	sep string
}

func (b *infoBlocks) print(_ storepath.Path, info *store.PathInfo) error {
	text := b.sep + b.dir.Print(info.Path) + "\n"
	b.sep = "\n"
	line := func(name, value string) { text += fmt.Sprintf("  %-12s%s\n", name, value) }
	line("nar hash", info.NarHash.Text(nixhash.SRI))
	line("nar size", fmt.Sprintf("%d (%s)", info.NarSize, size(info.NarSize)))
	if !info.Deriver.IsZero() {
		line("deriver", b.dir.Print(info.Deriver))
	}
	if !info.CA.IsZero() {
		line("ca", info.CA.String())
	}
	if info.Registered != 0 {
		line("registered", time.Unix(info.Registered, 0).UTC().Format(time.RFC3339))
	}
	if info.Ultimate {
		line("ultimate", "yes")
	}
	for _, s := range info.Signatures {
		line("signature", string(s))
	}
	for _, r := range info.References {
		line("reference", b.dir.Print(r))
	}
	return b.out.printf("%s", text)
}

func (b *infoBlocks) end() error { return nil }
