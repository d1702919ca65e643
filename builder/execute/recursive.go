package execute

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"sync"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/unixsocket"
	"github.com/strata-nix/strata/store"
)

// nixSocket is the name of the socket in the build directory at which a builder
// finds Nix.
const nixSocket = ".nix-socket"

// maxNixClients is how many connections a builder may have at once.
const maxNixClients = 64

// nixServer serves a builder that uses Nix itself.
type nixServer struct {
	store  *restricted
	l      *net.UnixListener
	cancel context.CancelFunc
	conns  sync.WaitGroup
}

// startNix opens the socket in the build directory and serves it until stop.
func startNix(ctx context.Context, r *restricted, d *buildDir, own *owner, serve func(context.Context, net.Conn, store.Store)) (*nixServer, error) {
	fail := func(err error) (*nixServer, error) {
		return nil, fmt.Errorf("creating the socket of recursive Nix: %w", err)
	}
	name := unixsocket.Via(d.dir, nixSocket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return fail(err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(name, 0o600); err != nil {
		return fail(errors.Join(err, l.Close()))
	}
	if own != nil {
		if err := os.Lchown(name, own.uid, own.gid); err != nil {
			return fail(errors.Join(err, l.Close()))
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	n := &nixServer{store: r, l: l, cancel: cancel}
	n.conns.Go(func() { n.accept(ctx, serve) })
	return n, nil
}

// nixRemote is NIX_REMOTE of a builder whose build directory is dir.
func nixRemote(dir string) string { return "unix://" + path.Join(dir, nixSocket) }

func (n *nixServer) accept(ctx context.Context, serve func(context.Context, net.Conn, store.Store)) {
	slots := make(chan struct{}, maxNixClients)
	for {
		slots <- struct{}{}
		conn, err := n.l.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				activity.Warnf(ctx, "accepting a connection of recursive Nix: %v", err)
			}
			return
		}
		n.conns.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			serve(ctx, conn, n.store)
		})
	}
}

// stop ends all connections and waits for what they do.
func (n *nixServer) stop() {
	_ = n.l.Close()
	n.cancel()
	n.conns.Wait()
}
