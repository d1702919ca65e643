package stack

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// WhyAlive tells what keeps paths from being garbage, see [store.Explainer]. All of them must be
// valid.
func (s *Stack) WhyAlive(ctx context.Context, paths []storepath.Path, nearest bool) ([][]store.Reason, error) {
	valid, err := s.Store.ValidPaths(ctx, paths)
	if err != nil {
		return nil, err
	}
	if missing := storepath.NewSet(valid...).Missing(paths); len(missing) > 0 {
		return nil, &store.InvalidPathError{Path: s.Config.StoreDir.Print(missing[0])}
	}
	return s.Store.WhyAlive(ctx, paths, nearest)
}

// whyArg is what a request says of it.
type whyArg struct {
	Paths   []string `json:"paths"` // without the store directory
	Nearest bool     `json:"nearest"`
}

// whyResult answers: reasons for each path, in which paths are numbers, as the same ones stand in
// many chains.
type whyResult struct {
	Invalid string        `json:"invalid,omitempty"` // the first path that is not valid
	Paths   []string      `json:"paths"`
	Reasons [][]whyReason `json:"reasons"`
}

type whyReason struct {
	Links []string           `json:"links"`
	Chain []int              `json:"chain"`
	Via   map[int]store.Edge `json:"via,omitempty"` // by places in the chain; of the others that are not first a reference
}

func (s *Stack) whyAsked(ctx context.Context, text json.RawMessage) (any, error) {
	var arg whyArg
	if err := json.Unmarshal(text, &arg); err != nil {
		return nil, err
	}
	paths, err := parseBases(arg.Paths)
	if err != nil {
		return nil, err
	}
	all, err := s.WhyAlive(ctx, paths, arg.Nearest)
	if invalid := (*store.InvalidPathError)(nil); errors.As(err, &invalid) {
		return whyResult{Invalid: invalid.Path}, nil
	}
	if err != nil {
		return nil, err
	}
	return encodeReasons(all), nil
}

func encodeReasons(all [][]store.Reason) whyResult {
	r := whyResult{Reasons: make([][]whyReason, len(all))}
	numbers := map[storepath.Path]int{}
	for i, reasons := range all {
		for _, reason := range reasons {
			out := whyReason{Links: reason.Links}
			for k, step := range reason.Chain {
				n, known := numbers[step.Path]
				if !known {
					n = len(r.Paths)
					numbers[step.Path] = n
					r.Paths = append(r.Paths, step.Path.Base())
				}
				out.Chain = append(out.Chain, n)
				if k > 0 && step.Via != store.ByReference {
					if out.Via == nil {
						out.Via = map[int]store.Edge{}
					}
					out.Via[k] = step.Via
				}
			}
			r.Reasons[i] = append(r.Reasons[i], out)
		}
	}
	return r
}

// decode makes reasons of an answer about so many paths.
func (r whyResult) decode(count int) ([][]store.Reason, error) {
	paths, err := parseBases(r.Paths)
	if err != nil {
		return nil, err
	}
	if len(r.Reasons) != count {
		return nil, fmt.Errorf("it tells of %d paths, and was asked for %d", len(r.Reasons), count)
	}
	all := make([][]store.Reason, count)
	for i, reasons := range r.Reasons {
		for _, reason := range reasons {
			out := store.Reason{Links: reason.Links}
			for k, n := range reason.Chain {
				if n < 0 || n >= len(paths) {
					return nil, fmt.Errorf("its chains have a path %d, and there are %d", n, len(paths))
				}
				step := store.Step{Path: paths[n]}
				if k > 0 {
					step.Via = cmp.Or(reason.Via[k], store.ByReference)
				}
				out.Chain = append(out.Chain, step)
			}
			all[i] = append(all[i], out)
		}
	}
	return all, nil
}

// WhyAlive has the process that serves a stack tell what keeps paths from being garbage: it knows by
// which settings it collects. A path that is not valid is a [*store.InvalidPathError].
func (r *Run) WhyAlive(ctx context.Context, paths []storepath.Path, nearest bool) ([][]store.Reason, error) {
	all := make([][]store.Reason, 0, len(paths))
	size := pathsAtOnce
	if !nearest {
		size = 10 // each may have as many reasons as there are roots
	}
	for chunk := range slices.Chunk(paths, size) {
		arg := whyArg{Nearest: nearest}
		for _, p := range chunk {
			arg.Paths = append(arg.Paths, p.Base())
		}
		var result whyResult
		if err := r.ask(ctx, askWhyAlive, arg, &result); err != nil {
			return nil, err
		}
		if result.Invalid != "" {
			return nil, &store.InvalidPathError{Path: result.Invalid}
		}
		reasons, err := result.decode(len(chunk))
		if err != nil {
			return nil, fmt.Errorf("stack '%s': its answer makes no sense: %w", r.Name, err)
		}
		all = append(all, reasons...)
	}
	return all, nil
}
