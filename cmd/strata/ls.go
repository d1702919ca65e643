package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
)

type lsOptions struct {
	recursive bool
	long      bool
	directory bool
	json      bool
}

func newLsCommand(g *globals) *cobra.Command {
	var o lsOptions
	cmd := &cobra.Command{
		Use:   "ls PATH",
		Short: "List the files of a store object",
		Long: `List the files of a store object, or of a directory in one.

With --json the output is described in doc/formats/cli-json.md.`,
		Args: exactlyOne,
		RunE: runner(func(ctx context.Context, args []string) error { return runLs(ctx, g, o, args[0]) }),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.recursive, "recursive", "R", false, "list directories recursively")
	f.BoolVarP(&o.long, "long", "l", false, "print types, sizes and the targets of symlinks")
	f.BoolVarP(&o.directory, "directory", "d", false, "list a directory itself rather than what is in it")
	f.BoolVar(&o.json, "json", false, "print JSON")
	cmd.MarkFlagsMutuallyExclusive("directory", "json")
	cmd.MarkFlagsMutuallyExclusive("directory", "recursive")
	return cmd
}

// depth is how many levels of directories are of interest.
func (o lsOptions) depth() int {
	switch {
	case o.recursive:
		return math.MaxInt
	case o.directory:
		return 0
	}
	return 1
}

func runLs(ctx context.Context, g *globals, o lsOptions, arg string) error {
	dir, err := g.storeDir(g.storeURI)
	if err != nil {
		return err
	}
	file, err := parseInside(dir, arg)
	if err != nil {
		return err
	}
	return g.with(ctx, func(st store.Store) error {
		obj, err := openObject(ctx, st, file.path)
		if err != nil {
			return err
		}
		if o.json {
			return lsJSON(ctx, g.out, obj, file.rest, o.depth())
		}
		name := path.Base(dir.Print(file.path) + file.rest)
		return obj.walk(ctx, file.rest, o.depth(), func(e nar.Entry, _ io.Reader) error {
			switch {
			case e.Path != "":
				return lsLine(g.out, o.long, "./"+e.Path, e)
			case e.Type != nar.TypeDirectory:
				return lsLine(g.out, o.long, name, e)
			case o.directory:
				return lsLine(g.out, o.long, ".", e)
			}
			return nil
		})
	})
}

func lsLine(out *output, long bool, name string, e nar.Entry) error {
	if !long {
		return out.println(name)
	}
	mode := map[nar.Type]string{nar.TypeRegular: "-r--r--r--", nar.TypeDirectory: "dr-xr-xr-x", nar.TypeSymlink: "lrwxrwxrwx"}[e.Type]
	if e.Executable {
		mode = "-r-xr-xr-x"
	}
	if e.Type == nar.TypeSymlink {
		name += " -> " + e.Target
	}
	return out.println(fmt.Sprintf("%s %20d %s", mode, e.Size, name))
}

// lsNode is a file in the JSON of ls.
type lsNode struct {
	Type       string             `json:"type"`
	Size       *int64             `json:"size,omitempty"`
	Executable bool               `json:"executable,omitempty"`
	Target     string             `json:"target,omitempty"`
	Entries    map[string]*lsNode `json:"entries,omitzero"`
}

func lsJSON(ctx context.Context, out *output, obj *object, rest string, depth int) error {
	var top *lsNode
	dirs := map[string]*lsNode{}
	err := obj.walk(ctx, rest, depth, func(e nar.Entry, _ io.Reader) error {
		n := &lsNode{Type: e.Type.String(), Executable: e.Executable, Target: e.Target}
		if e.Type == nar.TypeRegular {
			n.Size = &e.Size
		}
		if e.Type == nar.TypeDirectory && levels(e.Path) < depth {
			n.Entries = map[string]*lsNode{}
			dirs[e.Path] = n
		}
		if e.Path == "" {
			top = n
			return nil
		}
		parent := strings.TrimSuffix(strings.TrimSuffix(e.Path, e.Name()), "/")
		dirs[parent].Entries[e.Name()] = n
		return nil
	})
	if err != nil {
		return err
	}
	return out.printJSON(top)
}
