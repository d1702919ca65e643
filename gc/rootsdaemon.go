package gc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/strata-nix/strata/internal/unixsocket"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// RootsSocket is where a roots daemon of a store listens, in the state directory.
const RootsSocket = "gc-roots-socket/socket"

// maxRoots bounds what a roots daemon may say. A machine on which a million store
// objects run has something else to worry about.
const maxRoots = 1 << 20

// DaemonRoots asks a roots daemon, as `nix store roots-daemon` is one, what
// running processes use: for a collector that may not see them itself. Every
// failure is an error, since what nobody has said must not be collected.
//
// Form: whoever connects gets full store paths, each followed by a NUL, to the
// end of the stream. Source: Nix 2.34, store setting "use-roots-daemon".
func DaemonRoots(ctx context.Context, stateDir string, dir storepath.Dir) (store.Roots, error) {
	socket := filepath.Join(stateDir, RootsSocket)
	fail := func(err error) error { return fmt.Errorf("asking the roots daemon at '%s': %w", socket, err) }
	c, err := unixsocket.Dial(ctx, socket)
	if err == nil {
		defer c.Close()
		defer context.AfterFunc(ctx, func() { _ = c.Close() })()
		var roots store.Roots
		if roots, err = readRoots(c, dir); err == nil {
			return roots, nil
		}
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, fail(err)
}

// readRoots reads what a roots daemon says.
func readRoots(from io.Reader, dir storepath.Dir) (store.Roots, error) {
	roots := store.Roots{}
	// No longer than a path can be, whatever comes.
	r := bufio.NewReaderSize(from, len(dir)+1+storepath.HashPartLen+1+storepath.MaxNameLen+1)
	for range maxRoots {
		text, err := r.ReadSlice(0)
		switch {
		case errors.Is(err, io.EOF) && len(text) == 0:
			return roots, nil
		case errors.Is(err, io.EOF):
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		}
		p, err := dir.Parse(string(text[:len(text)-1]))
		if err != nil {
			return nil, err
		}
		roots[p] = []string{censored}
	}
	return nil, fmt.Errorf("more than %d roots", maxRoots)
}
