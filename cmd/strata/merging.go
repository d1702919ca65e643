package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/strata-nix/strata/merge"
	"github.com/strata-nix/strata/storepath"
)

// merging is what 'commit' and 'merge' have in common: how a lower is written.
type merging struct {
	format  string
	paths   []string
	replace bool
	dryRun  bool
	json    bool
}

func (m *merging) addFlags(f *pflag.FlagSet) {
	f.StringVar(&m.format, "format", "", "write a directory or an EROFS image: `dir or erofs` (default: erofs if the target ends in .erofs or .img)")
	f.StringArrayVar(&m.paths, "path", nil, "only `PATH` and what it refers to; may be repeated. A gc root or another link to it will do")
	f.BoolVar(&m.replace, "replace", false, "put the image in the place of one that is there; who has that mounted keeps it")
	f.BoolVar(&m.dryRun, "dry-run", false, "tell what would be written, and write nothing")
	f.BoolVar(&m.json, "json", false, "print JSON")
}

// image tells whether an image is to be written.
func (m *merging) image(target string) (bool, error) {
	switch m.format {
	case "erofs":
		return true, nil
	case "":
		ext := filepath.Ext(target)
		return ext == ".erofs" || ext == ".img", nil
	case "dir", "directory":
		if m.replace {
			return false, &usageError{errors.New("only an image can be replaced, since a directory may be in use; write it beside and rename it")}
		}
		return false, nil
	}
	return false, &usageError{fmt.Errorf("unknown format '%s'; there are dir and erofs", m.format)}
}

// roots are the paths that were asked for, nil for everything.
func (m *merging) roots(dir storepath.Dir) (merge.Options, error) {
	var o merge.Options
	if m.paths == nil {
		return o, nil
	}
	var err error
	o.Roots, err = parseObjects(dir, m.paths)
	return o, err
}

// merged is what is printed as JSON.
type merged struct {
	Target    string   `json:"target"`
	Format    string   `json:"format"`
	Objects   int      `json:"objects"`
	NarSize   uint64   `json:"narSize"`
	Leaning   int      `json:"leaning"`
	Missing   []string `json:"missing"`
	Conflicts []string `json:"conflicts"`
	Size      int64    `json:"size,omitempty"`
	Shared    uint64   `json:"shared,omitempty"`
}

// write writes what is planned, and tells.
func (m *merging) write(ctx context.Context, g *globals, plan *merge.Plan, dir storepath.Dir, target string) error {
	image, err := m.image(target)
	if err != nil {
		return err
	}
	out := merged{Target: target, Format: "directory", Objects: plan.Objects, NarSize: plan.NarBytes, Leaning: plan.Leaning, Missing: []string{}, Conflicts: []string{}}
	for _, p := range plan.Missing {
		out.Missing = append(out.Missing, dir.Print(p))
	}
	for _, c := range plan.Conflicts {
		out.Conflicts = append(out.Conflicts, dir.Print(c.Path))
	}
	write := plan.WriteDirectory
	if image {
		out.Format, write = "erofs", plan.WriteImage
	}
	if !m.dryRun {
		o := merge.WriteOptions{Replace: m.replace, Registered: sourceDate()}
		res, err := write(ctx, target, o)
		if err != nil {
			return err
		}
		out.Size, out.Shared = res.Size, res.Shared
	}
	if m.json {
		return g.out.printJSON(out)
	}
	return g.out.println(out.text(m.dryRun))
}

// sourceDate is the time that SOURCE_DATE_EPOCH wants everything to have; 0 if nothing does.
func sourceDate() int64 {
	t, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return 0
	}
	return t
}

func (m *merged) text(dryRun bool) string {
	var b strings.Builder
	verb := "wrote"
	if dryRun {
		verb = "would write"
	}
	_, _ = fmt.Fprintf(&b, "%s %s, %s of contents, to %s", verb, plural(m.Objects, "object"), size(m.NarSize), m.Target)
	if m.Size > 0 {
		_, _ = fmt.Fprintf(&b, " (%s)", size(uint64(m.Size))) //nolint:gosec // of a file
	}
	if m.Shared > 0 {
		_, _ = fmt.Fprintf(&b, " (%s of that takes no space)", size(m.Shared))
	}
	if m.Leaning > 0 {
		_, _ = fmt.Fprintf(&b, "\nit is to lie over lowers that have %s that it refers to", plural(m.Leaning, "object"))
	}
	return b.String()
}

// plural is a number of things.
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + one + "s"
}

// someOf lists the first of many, for a message.
func someOf(names []string) string {
	const most = 5
	if len(names) > most {
		return strings.Join(names[:most], "\n  ") + fmt.Sprintf("\n  and %d more", len(names)-most)
	}
	return strings.Join(names, "\n  ")
}
