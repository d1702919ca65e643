package substitute

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/strata-nix/strata/store"
)

// Opener opens the store of a URI.
type Opener func(ctx context.Context, uri string) (store.Store, error)

// retryAfter is how long a source that could not be opened is left alone.
const retryAfter = time.Minute

// Pool opens sources when they are first wanted, and keeps them until Close. It
// is for any number of goroutines, and of engines. A nil Pool has no sources.
type Pool struct {
	open Opener

	mu      sync.Mutex
	entries map[string]*entry // by URI
}

// entry is one URI. Whoever has put something into turn may look at the rest.
type entry struct {
	uri    string
	turn   chan struct{}
	source *Source // nil: not open
	err    error   // of the last attempt
	failed time.Time
}

// NewPool makes a pool. It opens nothing yet.
func NewPool(open Opener) *Pool { return &Pool{open: open, entries: map[string]*entry{}} }

// OpenError says which source cannot be used.
type OpenError struct {
	URI string
	Err error
}

func (e *OpenError) Error() string {
	if name, _, _ := strings.Cut(e.URI, "?"); strings.Contains(e.Err.Error(), name) {
		return e.Err.Error() // says it all
	}
	return fmt.Sprintf("cannot use substituter '%s': %v", e.URI, e.Err)
}

// Unwrap gives the cause.
func (e *OpenError) Unwrap() error { return e.Err }

// Sources gives the sources that can be used of those with the given URIs: by
// priority, and as given where that is equal. Those that cannot be opened are in
// failed; they are tried again when they are wanted a minute later. err is only
// that of ctx.
//
// The stores belong to the pool.
func (p *Pool) Sources(ctx context.Context, uris []string) (sources []Source, failed []*OpenError, err error) {
	if p == nil {
		return nil, nil, nil
	}
	entries := p.find(uris)
	opened := make([]*Source, len(entries))
	errs := make([]error, len(entries))
	var all sync.WaitGroup
	for i, e := range entries {
		all.Go(func() { opened[i], errs[i] = p.get(ctx, e) })
	}
	all.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, nil, err
	}
	for i, s := range opened {
		if errs[i] != nil {
			failed = append(failed, &OpenError{URI: entries[i].uri, Err: errs[i]})
			continue
		}
		sources = append(sources, *s)
	}
	slices.SortStableFunc(sources, func(a, b Source) int { return cmp.Compare(a.Priority, b.Priority) })
	return sources, failed, nil
}

// find gives the entries of URIs, each once.
func (p *Pool) find(uris []string) []*entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*entry
	for _, uri := range uris {
		e := p.entries[uri]
		if e == nil {
			e = &entry{uri: uri, turn: make(chan struct{}, 1)}
			p.entries[uri] = e
		}
		if !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out
}

// get opens a source, unless it is open or has failed just now.
func (p *Pool) get(ctx context.Context, e *entry) (*Source, error) {
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if e.source != nil {
		return e.source, nil
	}
	if e.err != nil && time.Since(e.failed) < retryAfter {
		return nil, e.err
	}
	s, err := p.openSource(ctx, e.uri)
	if err != nil && ctx.Err() != nil {
		return nil, err // that says nothing about the source
	}
	e.source, e.err, e.failed = s, err, time.Now()
	return s, err
}

func (p *Pool) openSource(ctx context.Context, uri string) (*Source, error) {
	st, err := p.open(ctx, uri)
	if err != nil {
		return nil, err
	}
	s, err := describe(ctx, st, uri)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return s, nil
}

// describe finds out how a source wants to be used. What its URI says counts for
// more than what the store says.
func describe(ctx context.Context, st store.Store, uri string) (*Source, error) {
	ref, err := store.ParseReference(uri)
	if err != nil {
		return nil, err
	}
	s := &Source{Store: st, Name: nameOf(ref)}
	if a, ok := store.As[store.Advertiser](st); ok {
		if s.Priority, s.MassQuery, err = a.Advertise(ctx); err != nil {
			return nil, err
		}
	}
	if v := ref.Param("priority"); v != "" {
		if s.Priority, err = strconv.Atoi(v); err != nil {
			return nil, fmt.Errorf("setting 'priority' has invalid value '%.80s', expected a number", v)
		}
	}
	if err := setFlag(ref, "want-mass-query", &s.MassQuery); err != nil {
		return nil, err
	}
	return s, setFlag(ref, "trusted", &s.Trusted)
}

func setFlag(ref store.Reference, name string, flag *bool) error {
	switch v := ref.Param(name); v {
	case "":
	case "true", "yes", "1":
		*flag = true
	case "false", "no", "0":
		*flag = false
	default:
		return fmt.Errorf("setting '%s' has invalid value '%.80s', expected 'true' or 'false'", name, v)
	}
	return nil
}

// nameOf is what people get to read of a reference.
func nameOf(ref store.Reference) string {
	if ref.Scheme == "unix" && ref.Authority == "" {
		return "daemon"
	}
	ref.Params = nil
	if ref.Scheme == "http" || ref.Scheme == "https" {
		ref.Authority = strings.TrimRight(ref.Authority, "/")
	}
	return ref.String()
}

// Close closes the sources. No request may be under way.
func (p *Pool) Close() error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, e := range p.entries {
		if e.source != nil {
			errs = append(errs, e.source.Store.Close())
		}
	}
	clear(p.entries)
	return errors.Join(errs...)
}
