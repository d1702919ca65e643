package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// selection is which paths a command is about, as its flags and arguments say.
type selection struct {
	all      bool
	closure  bool
	fromFile string

	named   []storepath.Path
	outputs wantedOutputs
	// realised is what infos found about the outputs of content-addressed derivations.
	realised []*store.Realisation
}

// addFlags adds those that choose paths; verb is what happens to them.
func (s *selection) addFlags(f *pflag.FlagSet, verb string) {
	f.BoolVarP(&s.closure, "closure", "r", false, "also "+verb+" what the paths refer to, directly or not")
	f.BoolVar(&s.all, "all", false, verb+" all paths of the store")
	f.StringVar(&s.fromFile, "from-file", "", "also "+verb+" the paths in `FILE`, one per line; - is standard input")
}

// parse reads the arguments, and the file if there is one, before anything is
// opened.
func (s *selection) parse(ctx context.Context, g *globals, dir storepath.Dir, args []string) error {
	named := len(args) > 0 || s.fromFile != ""
	switch {
	case s.all == named:
		return &usageError{errors.New("give paths or --all, and not both")}
	case s.all && s.closure:
		return &usageError{errors.New("--all is closed under references, --closure adds nothing to it")}
	}
	switch s.fromFile {
	case "":
	case "-":
		lines, err := readLines("standard input", g.input(ctx))
		if err != nil {
			return err
		}
		args = append(args, lines...)
	default:
		f, err := os.Open(s.fromFile)
		if err != nil {
			return &usageError{err}
		}
		defer f.Close()
		lines, err := readLines(s.fromFile, f)
		if err != nil {
			return err
		}
		args = append(args, lines...)
	}
	outputs, rest, err := parseOutputs(dir, args)
	if err != nil {
		return err
	}
	s.outputs = outputs
	s.named, err = parseObjects(dir, rest)
	return err
}

// readLines gives the lines of a file that are not empty.
func readLines(file string, r io.Reader) ([]string, error) {
	var all []string
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if lines.Text() != "" {
			all = append(all, lines.Text())
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	return all, nil
}

// infos gives what is known of the paths that are meant, references first. All
// of them must be valid.
func (s *selection) infos(ctx context.Context, st store.Store) ([]*store.PathInfo, error) {
	made, realised, err := s.outputs.resolve(ctx, st)
	if err != nil {
		return nil, err
	}
	s.realised = realised
	paths, err := selectPaths(ctx, st, s.all, append(made, s.named...))
	if err != nil {
		return nil, err
	}
	if s.closure {
		return closureOf(ctx, st, paths)
	}
	infos := make([]*store.PathInfo, 0, len(paths))
	for q, err := range queryInfos(ctx, st, paths) {
		switch {
		case err != nil:
			return nil, err
		case q.info != nil:
			infos = append(infos, q.info)
		case !s.all: // else it was deleted meanwhile
			return nil, &store.InvalidPathError{Path: st.Dir().Print(q.path)}
		}
	}
	return store.SortByReferences(st.Dir(), infos)
}
