package worker

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

func serveQueryMissing(ctx context.Context, s *session) error {
	targets := s.in.derivedPaths()
	if err := s.start(); err != nil {
		return err
	}
	m, err := plannerOf(s.view).QueryMissing(ctx, targets)
	if err != nil {
		return err
	}
	s.stop()
	s.out.paths(m.WillBuild)
	s.out.paths(m.WillSubstitute)
	s.out.paths(m.Unknown)
	s.out.Uint64(m.DownloadSize)
	s.out.Uint64(m.NarSize)
	return nil
}

func serveEnsurePath(ctx context.Context, s *session) error {
	p := s.in.path()
	if err := s.start(); err != nil {
		return err
	}
	return s.done(ensurerOf(s.view).EnsurePath(s.rooted(ctx), p))
}

// rooted is for what the client wants to have afterwards.
func (s *session) rooted(ctx context.Context) context.Context {
	if roots := s.tempRoots(); roots != nil {
		return store.WithTempRoots(ctx, roots)
	}
	return ctx
}

// buildRequest reads what all requests for derived paths consist of.
func (s *session) buildRequest() ([]derivation.DerivedPath, store.BuildMode, error) {
	targets := s.in.derivedPaths()
	mode := s.in.buildMode()
	if err := s.start(); err != nil {
		return nil, 0, err
	}
	if mode == store.BuildRepair && !s.Trusted {
		return nil, 0, denied("repairing is not allowed because you are not in 'trusted-users'")
	}
	return targets, mode, nil
}

func serveBuildPaths(ctx context.Context, s *session) error {
	targets, mode, err := s.buildRequest()
	if err != nil {
		return err
	}
	results, err := builderOf(s.view).BuildPaths(s.rooted(ctx), targets, mode)
	if err == nil {
		err = failures(ctx, s.in.dir, targets, results)
	}
	return s.done(err)
}

func serveBuildPathsWithResults(ctx context.Context, s *session) error {
	targets, mode, err := s.buildRequest()
	if err != nil {
		return err
	}
	results, err := builderOf(s.view).BuildPaths(s.rooted(ctx), targets, mode)
	if err != nil {
		return err
	}
	s.stop()
	results = slices.DeleteFunc(results, func(r *store.BuildResult) bool { return r == nil })
	s.out.Uint64(uint64(len(results)))
	for _, r := range results {
		s.out.derivedPath(r.Path)
		if err := s.out.buildResult(r); err != nil {
			return err
		}
	}
	return nil
}

func serveBuildDerivation(ctx context.Context, s *session) error {
	drv := s.in.path()
	var b *derivation.Basic
	name, err := derivation.NameFromPath(drv)
	if err != nil {
		// The name belongs to the derivation, which cannot be read without one.
		s.in.Fail(err)
	} else if b, err = derivation.ReadBasic(s.in.Reader, s.in.dir, name); err != nil {
		s.in.Fail(err)
	}
	mode := s.in.buildMode()
	if err := s.start(); err != nil {
		return err
	}
	kind, err := b.Kind()
	if err != nil {
		return err
	}
	if !s.Trusted {
		// What is addressed by its contents can do no harm under a wrong name. The
		// path that the client gave the derivation may be a lie, though.
		if !kind.IsContentAddressed() {
			return denied("you are not privileged to build input-addressed derivations")
		}
		if drv, err = s.addDerivation(ctx, b); err != nil {
			return err
		}
	}
	d, err := store.Need[store.DerivationBuilder](s.view, "buildDerivation")
	if err != nil {
		return err
	}
	result, err := d.BuildDerivation(s.rooted(ctx), drv, b, mode)
	if err != nil {
		return err
	}
	s.stop()
	return s.out.buildResult(result)
}

// addDerivation writes b to the store and gives its true path.
func (s *session) addDerivation(ctx context.Context, b *derivation.Basic) (storepath.Path, error) {
	d := derivation.Derivation{Basic: *b}
	text, err := d.ATerm(s.in.dir)
	if err != nil {
		return storepath.Path{}, err
	}
	info, err := s.addDump(ctx, store.Dump{
		Name:       b.Name + storepath.DerivationSuffix,
		Spec:       storepath.Spec{Method: storepath.Text, Algorithm: nixhash.SHA256},
		References: d.References(),
		Contents:   strings.NewReader(string(text)),
	}, store.AddOptions{})
	if err != nil {
		return storepath.Path{}, err
	}
	return info.Path, nil
}

// buildError is what a client that asked for no results learns of failures.
type buildError struct {
	message string
	status  uint64
}

func (e *buildError) Error() string      { return e.message }
func (e *buildError) ExitStatus() uint64 { return e.status }

// failures makes one error of the results that are none. Of several failures all
// messages are told as log lines, and what could not be had goes into the error,
// be it that it failed or that it was given up for that.
func failures(ctx context.Context, dir storepath.Dir, targets []derivation.DerivedPath, results []*store.BuildResult) error {
	var failed []*store.BuildResult
	names := map[string]bool{}
	for i, r := range results {
		switch {
		case r == nil:
		case r.Status.OK():
			continue
		default:
			failed = append(failed, r)
		}
		names["'"+targets[i].Drv().Arg(dir)+"'"] = true
	}
	switch {
	case len(failed) == 0:
		return nil
	case len(names) == 1:
		return &buildError{failed[0].Message, exitStatus(failed)}
	}
	for _, r := range failed {
		activity.Errorf(ctx, "%s", r.Message)
	}
	list := strings.Join(slices.Sorted(maps.Keys(names)), ", ")
	return &buildError{"build of " + list + " failed", exitStatus(failed)}
}

// exitStatus puts those of several failures together.
func exitStatus(failed []*store.BuildResult) uint64 {
	status := uint64(1)
	for _, r := range failed {
		s := r.ExitStatus
		if s == 0 {
			s = store.ExitStatus(r.Status)
		}
		if status == 1 {
			status = s
		} else if s != 1 {
			status |= s
		}
	}
	return status
}

// QueryMissing implements store.Planner.
func (c *Client) QueryMissing(ctx context.Context, targets []derivation.DerivedPath) (*store.Missing, error) {
	m := new(store.Missing)
	err := c.askFor(ctx, opQueryMissing, targets, func(e *encoder) { e.derivedPaths(targets) }, func(d *decoder) {
		m.WillBuild, m.WillSubstitute, m.Unknown = d.paths(), d.paths(), d.paths()
		m.DownloadSize, m.NarSize = d.Uint64(), d.Uint64()
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// askFor is ask, for operations on derived paths.
func (c *Client) askFor(ctx context.Context, number uint64, targets []derivation.DerivedPath, send func(*encoder), answer func(*decoder)) error {
	if err := c.expressible(targets); err != nil {
		return err
	}
	return c.ask(ctx, number, send, answer)
}

// expressible refuses what an old daemon cannot be asked for.
func (c *Client) expressible(paths []derivation.DerivedPath) error {
	if c.proto >= v1+30 {
		return nil
	}
	for _, p := range paths {
		if p.IsOpaque() && p.Path.IsDerivation() || len(p.Through) > 0 {
			return c.tooOld("asking for '"+p.String()+"'", v1+30)
		}
	}
	return nil
}

// EnsurePath implements store.Ensurer.
func (c *Client) EnsurePath(ctx context.Context, p storepath.Path) error {
	return c.ask(ctx, opEnsurePath, func(e *encoder) { e.path(p) }, acknowledged)
}

// BuildPaths implements store.Builder.
func (c *Client) BuildPaths(ctx context.Context, targets []derivation.DerivedPath, mode store.BuildMode) (results []*store.BuildResult, err error) {
	if c.proto < opByNumber(opBuildPathsWithResults).since {
		return c.oldBuildPaths(ctx, targets, mode)
	}
	err = c.askFor(ctx, opBuildPathsWithResults, targets, func(e *encoder) {
		e.derivedPaths(targets)
		e.Uint64(uint64(mode))
	}, func(d *decoder) {
		for range d.Count() {
			p := d.derivedPath()
			r := d.buildResult()
			if d.Err() != nil {
				return
			}
			r.Path = p
			results = append(results, r)
		}
	})
	if err != nil {
		return nil, err
	}
	return inOrder(targets, results), nil
}

// inOrder sorts results as they were asked for. Daemons answer in an order of
// their own, and leave out what they gave up because something else failed.
func inOrder(targets []derivation.DerivedPath, results []*store.BuildResult) []*store.BuildResult {
	byTarget := make(map[string]*store.BuildResult, len(results))
	for _, r := range results {
		byTarget[r.Path.String()] = r
	}
	out := make([]*store.BuildResult, len(targets))
	for i, t := range targets {
		out[i] = byTarget[t.String()]
	}
	return out
}

// oldBuildPaths is for daemons that only tell success or failure of all. The
// outputs of derivations are asked for afterwards.
func (c *Client) oldBuildPaths(ctx context.Context, targets []derivation.DerivedPath, mode store.BuildMode) ([]*store.BuildResult, error) {
	err := c.askFor(ctx, opBuildPaths, targets, func(e *encoder) {
		e.derivedPaths(targets)
		e.Uint64(uint64(mode))
	}, acknowledged)
	if err != nil {
		return nil, err
	}
	results := make([]*store.BuildResult, len(targets))
	for i, t := range targets {
		results[i] = &store.BuildResult{Path: t, Status: store.Substituted, Outputs: map[string]*store.Realisation{}}
		if t.IsOpaque() || len(t.Through) > 0 {
			continue
		}
		results[i].Status = store.Built
		outputs, err := c.DerivationOutputs(ctx, t.Path)
		if err != nil {
			return nil, err
		}
		for name, p := range outputs {
			if t.WantsAll() || slices.Contains(t.Outputs, name) {
				results[i].Outputs[name] = &store.Realisation{ID: store.DrvOutput{Output: name}, OutPath: p}
			}
		}
	}
	return results, nil
}

// BuildDerivation implements store.DerivationBuilder.
func (c *Client) BuildDerivation(ctx context.Context, drv storepath.Path, b *derivation.Basic, mode store.BuildMode) (r *store.BuildResult, err error) {
	if err := derivation.WriteBasic(wire.NewWriter(io.Discard), c.o.Dir, b); err != nil {
		return nil, err // rather than in the middle of a request
	}
	err = c.ask(ctx, opBuildDerivation, func(e *encoder) {
		e.path(drv)
		_ = derivation.WriteBasic(e.Writer, e.dir, b) // kept in e.Err
		e.Uint64(uint64(mode))
	}, func(d *decoder) { r = d.buildResult() })
	return r, err
}
