package stack

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/strata-nix/strata/store"
)

// Lower says where a lower store is: either by a path, or as any store by its
// URI.
type Lower struct {
	// Name is what it is called in messages; its file name, without what follows a
	// dot, or the kind of store.
	Name string
	// Path is a directory that stands before the store (it has nix/store and
	// nix/var/nix/db in it), or an image of such a directory. Which it is turns out
	// when it is there.
	Path string
	// Real and State are the directories of the objects and of the database, if they
	// are at other places than those. Relative ones lie in Path, or in the image.
	Real, State string
	// Mount is where an image is mounted; a directory of the stack's own unless set.
	Mount string
	// Store is a lower that is not given by its path. Its objects must be files of
	// this machine: a daemon's socket needs the parameter root or real.
	Store store.Reference
	// Roots is whether to register what is leaned on as gc roots of the lower
	// ("roots"); by default, if its owner has made a place for that.
	Roots Choice
	// Leases is where to publish what is leaned on ("leases"): the directory or URI that
	// the owner of the lower names. LeaseRequired is whether to lean on nothing more
	// when that fails ("lease-required"); by default it is.
	Leases        string
	LeaseRequired Choice

	place string // in the upper's directory, for what is mounted on behalf of it
}

// ParseLower reads a lower from one text: a path (it begins with '/' or '.'), or
// the URI of a store. A path may be followed by parameters in the way of a URI:
// name, real, state, mount. A URI has a parameter name besides its own. Both have
// roots, leases and lease-required. A
// question mark that is part of a path is spelled %3F, and a percent sign %25.
func ParseLower(text string) (Lower, error) {
	ref, err := store.ParseReference(text)
	if err != nil {
		if !strings.Contains(text, ":") {
			err = fmt.Errorf("%w; a path begins with '/' or './'", err)
		}
		return Lower{}, err
	}
	var l Lower
	isPath := strings.HasPrefix(text, "/") || strings.HasPrefix(text, ".")
	take := func(name string) string {
		v := ref.Param(name)
		delete(ref.Params, name)
		return v
	}
	l.Name = take("name")
	l.Leases = take("leases")
	for name, to := range map[string]*Choice{"roots": &l.Roots, "lease-required": &l.LeaseRequired} {
		if *to, err = parseChoice(take(name)); err != nil {
			return Lower{}, fmt.Errorf("%w: '%.300s': parameter '%s' %w", store.ErrReference, text, name, err)
		}
	}
	if !isPath {
		l.Store = ref
		return l, nil
	}
	// The reader of references has made the path absolute; it is taken from the text,
	// as it may be relative to something else than the working directory.
	path, _, _ := strings.Cut(text, "?")
	if l.Path, err = url.PathUnescape(path); err != nil {
		return Lower{}, fmt.Errorf("%w: '%.300s': %w", store.ErrReference, text, err)
	}
	delete(ref.Params, "root")
	l.Real, l.State, l.Mount = take("real"), take("state"), take("mount")
	for name := range ref.Params {
		return Lower{}, fmt.Errorf("%w: '%.300s': unknown parameter '%s'%s; a lower by its path has %s",
			store.ErrReference, text, name, meant(name, pathParams), strings.Join(pathParams, ", "))
	}
	return l, nil
}

// pathParams are the parameters of a lower by its path.
var pathParams = []string{"name", "real", "state", "mount", "roots", "leases", "lease-required"}

// parseChoice reads a choice; "" leaves it to the package.
func parseChoice(text string) (Choice, error) {
	switch text {
	case "":
		return Auto, nil
	case "true":
		return Yes, nil
	case "false":
		return No, nil
	}
	return Auto, fmt.Errorf("is '%.40s', and must be true or false", text)
}

// defaultName is a name for messages.
func (l *Lower) defaultName() string {
	name := l.Store.Scheme
	if l.Path != "" {
		name, _, _ = strings.Cut(filepath.Base(l.Path), ".")
	} else if dir := l.Store.Param("root"); dir != "" {
		name = filepath.Base(dir)
	}
	return nameFrom(name, "lower")
}

// String is what the lower was given as, for messages.
func (l *Lower) String() string {
	if l.Path != "" {
		return l.Path
	}
	return l.Store.String()
}
