package builtin

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/filetransfer"
	"github.com/strata-nix/strata/storepath"
)

// Access says what a builder sees of the file system outside of the store.
type Access uint8

const (
	// Nothing is what there is in a sandbox.
	Nothing Access = iota
	// Public is what everybody may read: for builders without a sandbox that run
	// as a user of their own.
	Public
	// Everything is what this process may read: for builders without a sandbox
	// that run as its user.
	Everything
)

// Build is one run of a builtin builder.
type Build struct {
	// Drv is resolved. Its Builder says which one to run. Attributes are those of
	// its environment, or structured ones.
	Drv *derivation.Basic
	// Outputs are where to make each output, in the file system of this process.
	// Nothing is there yet, and only the builder writes to the directories that
	// they lie in.
	Outputs map[string]string

	// Dir is the store directory, RealDir where it is in the file system of this
	// process.
	Dir     storepath.Dir
	RealDir string
	// Visible says which store objects the builder sees; nil is all.
	Visible func(storepath.Path) bool
	// Outside says what it sees of the rest.
	Outside Access

	// Transfer downloads. Certificates of authorities, accounts and proxies are its own.
	Transfer *filetransfer.Client
	// HashedMirrors is the setting hashed-mirrors: where fetchurl looks first.
	HashedMirrors []string
	// Schemes opens URLs that are neither http, https nor file, by their scheme.
	Schemes map[string]func(context.Context, *url.URL) (io.ReadCloser, error)
}

// prefix of the names of builtin builders.
const prefix = "builtin:"

// UnsupportedError is for a builder that there is not.
type UnsupportedError struct {
	Name string // without "builtin:"
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("unsupported builtin builder '%s'", e.Name)
}

// builders are all of them.
var builders = map[string]func(context.Context, *Build) error{
	"buildenv":       buildenv,
	"fetchurl":       fetchurl,
	"unpack-channel": unpackChannel,
}

// Run runs the builder of b.Drv. Its error is what a builder would have printed
// before it failed: it belongs into the log of the build. After an error part of
// the outputs may be there. If ctx is done, its cause is the error.
//
// What it downloads shows as activities of ctx, and so do its warnings.
func Run(ctx context.Context, b *Build) error {
	name := strings.TrimPrefix(b.Drv.Builder, prefix)
	run, ok := builders[name]
	if !ok {
		return &UnsupportedError{Name: name}
	}
	return run(ctx, b)
}
