package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/cacheserver"
	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/daemon"
)

type serveOptions struct {
	listen          []string
	keyFiles        []string
	noSign          bool
	priority        int
	noMassQuery     bool
	compression     string
	level           int
	encode          bool
	maxCompressions int
	tlsCert, tlsKey string
	maxConnections  int
	headerTimeout   time.Duration
	idleTimeout     time.Duration
	stallTimeout    time.Duration
	drainTimeout    time.Duration
}

func newServeCommand(g *globals) *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve a store as a binary cache over HTTP",
		Long: `Serve all valid paths of a store, layered ones included, as a binary cache over
HTTP: narinfos, NARs with ranges, listings, build logs and realisations. What it
serves is signed with the keys in the files named with --key-file, or else with
those of secret-key-files in nix.conf; signatures that the store has stay.

It listens on 127.0.0.1:5000, or where --listen says: HOST:PORT, or a path
of a unix socket. Started by socket activation of systemd, it serves the sockets
that it was given. There are also /healthz, which fails while the store cannot be
read, and /metrics for Prometheus.

SIGTERM ends it: requests that are under way may finish for some time.`,
		Example: `  strata serve --store daemon --listen :5000 --key-file /etc/nix/cache.secret
  nix build --option extra-substituters http://localhost:5000 …`,
		Args: noArgs,
		RunE: runner(func(ctx context.Context, _ []string) error { return runServe(ctx, g, o) }),
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.listen, "listen", "l", nil, "listen on `ADDRESS`, HOST:PORT or a path; may be repeated")
	f.StringArrayVarP(&o.keyFiles, "key-file", "k", nil, "sign with the secret key in `FILE`; may be repeated")
	f.BoolVar(&o.noSign, "no-sign", false, "add no signatures, also if nix.conf has keys")
	f.IntVar(&o.priority, "priority", cacheserver.DefaultPriority, "tell clients to prefer caches whose `N` is lower")
	f.BoolVar(&o.noMassQuery, "no-mass-query", false, "tell clients not to ask for many paths that may not be there")
	f.StringVar(&o.compression, "compression", "none", "compress NARs on their way by `METHOD`: none, xz, zstd, gzip, bzip2 or br; only none allows ranges")
	f.IntVar(&o.level, "compression-level", compress.DefaultLevel, "the level of that; -1 is the method's own")
	f.BoolVar(&o.encode, "encode", false, "compress by zstd what is asked for with 'Accept-Encoding: zstd'")
	f.IntVar(&o.maxCompressions, "max-compressions", 0, "compress at most `N` NARs at once (default: four for each processor)")
	f.StringVar(&o.tlsCert, "tls-cert", "", "speak TLS with the certificate in `FILE`, which is read anew when it changes")
	f.StringVar(&o.tlsKey, "tls-key", "", "the `FILE` with the certificate's private key")
	f.IntVar(&o.maxConnections, "max-connections", cacheserver.DefaultMaxConnections, "serve at most `N` connections at once; more have to wait")
	f.DurationVar(&o.headerTimeout, "header-timeout", cacheserver.DefaultHeaderTimeout, "how long a client may take for a request")
	f.DurationVar(&o.idleTimeout, "idle-timeout", cacheserver.DefaultIdleTimeout, "how long a connection may be idle")
	f.DurationVar(&o.stallTimeout, "stall-timeout", cacheserver.DefaultStallTimeout, "how long a client may take for the next 64 KiB of an answer")
	f.DurationVar(&o.drainTimeout, "drain-timeout", cacheserver.DefaultDrainTimeout, "how long requests may go on after SIGTERM")
	cmd.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	cmd.MarkFlagsMutuallyExclusive("key-file", "no-sign")
	return cmd
}

// check finds what makes no sense, before anything is opened.
func (o serveOptions) check() error {
	if _, err := compress.Parse(o.compression); err != nil {
		return &usageError{err}
	}
	if o.maxConnections <= 0 || o.maxCompressions < 0 {
		return &usageError{errors.New("--max-connections must be positive, and --max-compressions not negative")}
	}
	for _, d := range []time.Duration{o.headerTimeout, o.idleTimeout, o.stallTimeout, o.drainTimeout} {
		if d <= 0 {
			return &usageError{errors.New("all timeouts must be positive")}
		}
	}
	return nil
}

func runServe(ctx context.Context, g *globals, o serveOptions) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	c, err := g.config()
	if err != nil {
		return err
	}
	so, err := o.serverOptions(g, c)
	if err != nil {
		return err
	}
	if so.Store, err = g.open(ctx); err != nil {
		return err
	}
	defer func() {
		if !errors.Is(err, cacheserver.ErrStuck) {
			closeWith(so.Store, &err)
		}
	}()
	s, err := cacheserver.New(so)
	if err != nil {
		return err
	}
	listeners, err := listenHTTP(o.listen)
	if err != nil {
		return err
	}
	for _, l := range listeners {
		so.Log.Info(fmt.Sprintf("serving '%s' on %s", so.Store.URI(), l.address(so.TLS != nil)))
	}
	all := make([]net.Listener, len(listeners))
	for i, l := range listeners {
		all[i] = l
	}
	return s.Serve(ctx, all...)
}

func (o serveOptions) serverOptions(g *globals, c *config) (cacheserver.Options, error) {
	log := g.log()
	so := cacheserver.Options{
		Priority:         o.priority,
		NoMassQuery:      o.noMassQuery,
		Compression:      compress.Method(o.compression),
		CompressionLevel: &o.level,
		Encode:           o.encode,
		MaxCompressions:  o.maxCompressions,
		MaxConnections:   o.maxConnections,
		HeaderTimeout:    o.headerTimeout,
		IdleTimeout:      o.idleTimeout,
		StallTimeout:     o.stallTimeout,
		DrainTimeout:     o.drainTimeout,
		Log:              log,
	}
	files := o.keyFiles
	if len(files) == 0 && !o.noSign {
		files = c.secretKeyFiles
	}
	var err error
	if so.Keys, err = secretKeys(files); err != nil {
		return so, err
	}
	if o.tlsCert != "" {
		so.TLS, err = cacheserver.TLSConfig(o.tlsCert, o.tlsKey, func(err error) { log.Warn(err.Error()) })
		if err != nil {
			return so, &usageError{err}
		}
	}
	return so, nil
}

// defaultListen is where a cache is served if nobody says otherwise. Only this
// machine reaches it.
const defaultListen = "127.0.0.1:5000"

// httpListener is a listener and the path of its socket, if it has one.
type httpListener struct {
	net.Listener
	path string
}

// address is where clients find it.
func (l *httpListener) address(tls bool) string {
	switch {
	case l.path != "":
		return l.path
	case l.Addr().Network() == "unix":
		return l.Addr().String()
	case tls:
		return "https://" + l.Addr().String()
	}
	return "http://" + l.Addr().String()
}

// listenHTTP takes the sockets of systemd, unless addresses are named.
func listenHTTP(addresses []string) (_ []*httpListener, err error) {
	var all []*httpListener
	defer func() {
		if err != nil {
			for _, l := range all {
				_ = l.Close()
			}
		}
	}()
	if len(addresses) == 0 {
		activated, err := daemon.Activated()
		if err != nil {
			return nil, err
		}
		for _, l := range activated {
			all = append(all, &httpListener{Listener: l})
		}
		if len(all) > 0 {
			return all, nil
		}
		addresses = []string{defaultListen}
	}
	for _, a := range addresses {
		l, err := listenAt(a)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

// listenAt makes a unix socket of what has a slash in it.
func listenAt(address string) (*httpListener, error) {
	if strings.Contains(address, "/") {
		path, err := filepath.Abs(strings.TrimPrefix(address, "unix:"))
		if err != nil {
			return nil, err
		}
		l, err := daemon.Listen(path)
		if err != nil {
			return nil, err
		}
		return &httpListener{l, path}, nil
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, &usageError{fmt.Errorf("cannot listen on '%s', which is neither HOST:PORT nor a path: %w", address, err)}
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return &httpListener{Listener: l}, nil
}
