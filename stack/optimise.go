package stack

import (
	"context"
	"encoding/json"

	"github.com/strata-nix/strata/optimise"
)

// OptimiseOptions say how space is saved in an upper.
type OptimiseOptions struct {
	// DryRun changes nothing.
	DryRun bool `json:"dryRun,omitempty"`
	// Reflink is auto, always or never; "": what the configuration says.
	Reflink string `json:"reflink,omitempty"`
}

// OptimiseResult is what that did. Its JSON form is described in doc/formats/cli-json.md.
type OptimiseResult struct {
	Stack  string `json:"stack"`
	DryRun bool   `json:"dryRun"`
	optimise.Outcome
}

// Optimise drops from the upper what a lower has too, and makes equal files of the rest one.
func (s *Stack) Optimise(ctx context.Context, o OptimiseOptions) (*OptimiseResult, error) {
	r := optimise.Request{DryRun: o.DryRun, Reflink: s.Config.Upper.Reflink}
	if o.Reflink != "" {
		var err error
		if r.Reflink, err = optimise.ParseReflink(o.Reflink); err != nil {
			return nil, err
		}
	}
	out, err := s.Store.OptimiseWith(ctx, r)
	if err != nil {
		return nil, err
	}
	return &OptimiseResult{s.Config.Name, o.DryRun, out}, nil
}

// optimiseAsked answers such a request.
func (s *Stack) optimiseAsked(ctx context.Context, text json.RawMessage) (any, error) {
	var o OptimiseOptions
	if err := json.Unmarshal(text, &o); err != nil {
		return nil, err
	}
	return s.Optimise(ctx, o)
}

// Optimise has the process that serves a stack save space in its upper. What it tells meanwhile
// goes to the sink of ctx.
func (r *Run) Optimise(ctx context.Context, o OptimiseOptions) (*OptimiseResult, error) {
	var result OptimiseResult
	err := r.ask(ctx, askOptimise, o, &result)
	return &result, err
}
