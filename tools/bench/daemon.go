package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Sizes of databases, before scaling.
const (
	million  = 1_000_000
	hundredK = 100_000
	tenK     = 10_000
)

func (o options) paths(n int) need { return need{kind: needPaths, n: o.scaled(n, 100)} }

// daemonRows ask daemons of both sides, which run at once over one database that
// stock Nix has made.
func daemonRows(o options) []row {
	var rows []row
	ask := func(op, what string, target float64, conns ...int) {
		for _, n := range conns {
			rows = append(rows, row{
				name: fmt.Sprintf("daemon/%s-%d", op, n), what: fmt.Sprintf("%s, %d connections", what, n), unit: perSecond,
				target: target, tail: op == "isvalid", needs: []need{o.paths(million)}, run: askRow(million, load{Op: op, Conns: n}),
			})
		}
	}
	ask(opConnect, "connect, handshake, one query", 10, 1)
	ask(opConnect, "connect, handshake, one query", 20, 16)
	ask("isvalid", "IsValidPath", 1.5, 1, 16)
	ask("unknown", "IsValidPath of a path that is not valid", 0, 1, 16)
	ask("pathinfo", "QueryPathInfo", 2, 1, 16)
	ask("validpaths", "QueryValidPaths of 100", 8, 1, 16)
	ask("missing", "QueryMissing of 100 valid paths", 10, 1, 16)
	ask("referrers", "QueryReferrers", 2, 1, 16)
	ask("hashpart", "QueryPathFromHashPart", 2, 1, 16)
	ask("closure", "closure of the largest package, a question for each path", 0, 1)
	ask("all", "QueryAllValidPaths", 2, 1)
	ask("all", "QueryAllValidPaths", 4, 16)
	rows = append(rows,
		row{name: "daemon/memory-idle", what: "memory with one connection that does nothing", unit: mebibytes,
			limit: 30, needs: []need{o.paths(million)}, run: idleRow},
		row{name: "daemon/memory-16", what: "memory with 16 busy connections", unit: mebibytes,
			limit: 60, needs: []need{o.paths(million)}, run: busyRow(million, load{Op: "pathinfo", Conns: 16})},
		row{name: "daemon/memory-all-16", what: "memory while 16 connections list all paths", unit: mebibytes,
			limit: 300, needs: []need{o.paths(million)}, run: busyRow(million, load{Op: "all", Conns: 16})},
		row{name: "daemon/start", what: "from the start of the process to its first answer", unit: millis,
			limit: 10, needs: []need{o.paths(million)}, run: startRow},
		row{name: "daemon/start-overlay", what: "the same, layered over a lower store", unit: millis,
			limit: 10, needs: []need{o.paths(million)}, run: startOverlayRow},
	)
	return append(rows, daemonCurves(o)...)
}

// daemonCurves show how cost grows with the database and with connections.
func daemonCurves(o options) []row {
	var rows []row
	for _, op := range []string{"isvalid", "pathinfo", "validpaths", "referrers"} {
		for _, n := range []int{tenK, hundredK, million} {
			rows = append(rows, row{
				name: fmt.Sprintf("curve/%s/%d", op, n), what: op, unit: perSecond, pairs: 3,
				curve: "requests a second of one connection, by paths in the database: " + op, at: n,
				needs: []need{o.paths(n)}, run: askRow(n, load{Op: op, Conns: 1}),
			})
		}
	}
	for _, n := range []int{tenK, hundredK, million} {
		rows = append(rows, row{
			name: fmt.Sprintf("curve/memory/%d", n), what: "memory", unit: mebibytes, pairs: 3,
			curve: "memory with 16 busy connections, by paths in the database", at: n,
			needs: []need{o.paths(n)}, run: busyRow(n, load{Op: "pathinfo", Conns: 16}),
		})
	}
	for _, conns := range []int{1, 8, 64, 256} {
		rows = append(rows, row{
			name: fmt.Sprintf("curve/connections/%d", conns), what: "isvalid", unit: perSecond, pairs: 3,
			curve: "IsValidPath a second, by connections", at: conns,
			needs: []need{o.paths(million)}, run: askRow(million, load{Op: "isvalid", Conns: conns}),
		}, row{
			name: fmt.Sprintf("curve/connections-memory/%d", conns), what: "memory", unit: mebibytes, pairs: 3,
			curve: "memory, by connections", at: conns,
			needs: []need{o.paths(million)}, run: busyRow(million, load{Op: "isvalid", Conns: conns}),
		})
	}
	return rows
}

// database copies a database that stock Nix has made to where both sides may
// write, and gives the store's root directory.
func (w *world) database(ctx context.Context, n need) (string, error) {
	return keep(w, "database "+n.String(), func() (string, func() error, error) {
		root := filepath.Join(w.disk, n.String())
		end := func() error { return os.RemoveAll(root) }
		return root, end, copyStore(ctx, w.input(n), root)
	})
}

// copyStore copies the store directory of an input.
func copyStore(ctx context.Context, input, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return do(ctx, "cp", "-a", filepath.Join(input, storeDir), to)
}

// server gives the daemon of a side over a database.
func (w *world) server(ctx context.Context, s side, n need) (*server, error) {
	root, err := w.database(ctx, n)
	if err != nil {
		return nil, err
	}
	path, err := w.root(n)
	if err != nil {
		return nil, err
	}
	return keep(w, fmt.Sprintf("server %s %s", s, n), func() (*server, func() error, error) {
		d, err := startServer(ctx, w, s, n.String(), root, path)
		if err != nil {
			return nil, nil, err
		}
		return d, d.stop, nil
	})
}

// root is the path of an input that has the largest closure.
func (w *world) root(n need) (string, error) {
	b, err := os.ReadFile(filepath.Join(w.input(n), rootFile))
	return strings.TrimSpace(string(b)), err
}

func (w *world) list(n need) string { return filepath.Join(w.input(n), pathsFile) }

func askRow(paths int, l load) func(context.Context, *world, side) (sample, error) {
	return func(ctx context.Context, w *world, s side) (sample, error) {
		n := w.o.paths(paths)
		d, err := w.server(ctx, s, n)
		if err != nil {
			return sample{}, err
		}
		l.Paths = w.list(n)
		if l.Batch == 0 {
			l.Batch = 100
		}
		if l.Root, err = w.root(n); err != nil {
			return sample{}, err
		}
		return d.put(ctx, w, l)
	}
}

// busyRow measures memory while there is load.
func busyRow(paths int, l load) func(context.Context, *world, side) (sample, error) {
	return func(ctx context.Context, w *world, s side) (sample, error) {
		n := w.o.paths(paths)
		root, err := w.database(ctx, n)
		if err != nil {
			return sample{}, err
		}
		path, err := w.root(n)
		if err != nil {
			return sample{}, err
		}
		// One of its own, which nothing else has left its traces in.
		d, err := startServer(ctx, w, s, "memory", root, path)
		if err != nil {
			return sample{}, err
		}
		defer d.stop()
		watching, done := context.WithCancel(ctx)
		most := make(chan float64, 1)
		go func() { most <- watchPSS(watching, d.cmd.Process.Pid) }()
		l.Paths, l.Batch = w.list(n), 100
		got, err := d.put(ctx, w, l)
		done()
		return sample{Value: <-most, answer: got.answer}, err
	}
}

// idleRow measures memory of a daemon that has answered, some time later, with
// one connection.
func idleRow(ctx context.Context, w *world, s side) (sample, error) {
	n := w.o.paths(million)
	root, err := w.database(ctx, n)
	if err != nil {
		return sample{}, err
	}
	path, err := w.root(n)
	if err != nil {
		return sample{}, err
	}
	d, err := startServer(ctx, w, s, "idle", root, path)
	if err != nil {
		return sample{}, err
	}
	defer d.stop()
	c, err := dial(ctx, d.socket)
	if err != nil {
		return sample{}, err
	}
	defer c.conn.Close()
	c.isValid(path)
	if err := c.err(); err != nil {
		return sample{}, err
	}
	time.Sleep(300 * time.Millisecond)
	return sample{Value: pss(d.cmd.Process.Pid)}, nil
}

func startRow(ctx context.Context, w *world, s side) (sample, error) {
	root, err := w.database(ctx, w.o.paths(million))
	if err != nil {
		return sample{}, err
	}
	return w.start(ctx, s, root)
}

// startOverlayRow starts with an upper layer that knows nothing yet.
func startOverlayRow(ctx context.Context, w *world, s side) (sample, error) {
	uri, end, err := w.layered(ctx, w.o.paths(million))
	if err != nil {
		return sample{}, err
	}
	got, err := w.start(ctx, s, uri)
	return got, firstError(err, end())
}

// start measures how long a daemon takes to its first answer.
func (w *world) start(ctx context.Context, s side, store string) (sample, error) {
	path, err := w.root(w.o.paths(million))
	if err != nil {
		return sample{}, err
	}
	d, err := startServer(ctx, w, s, "start", store, path)
	if err != nil {
		return sample{}, err
	}
	return sample{Value: float64(d.answered.Microseconds()) / 1e3}, d.stop()
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// overlayURI spells a layered store.
func overlayURI(root, lower, upper string) string {
	return fmt.Sprintf("local-overlay://?root=%s&lower-store=%s&upper-layer=%s",
		url.QueryEscape(root), url.QueryEscape("local?root="+lower+"&read-only=true"), url.QueryEscape(upper))
}
