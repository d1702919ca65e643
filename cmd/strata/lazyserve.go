package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/strata-nix/strata/daemon"
	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/store/lazy"
)

// lazyServeOptions are what a process is told that serves a mount.
type lazyServeOptions struct {
	lazyBound
	state, socket string
	takeOver      fusefs.Takeover
}

// fuseFD is where a process that serves a mount finds the connection.
const fuseFD = 3

// boundEnd is how long a process may take to end of its own accord that nobody needs any more.
const boundEnd = time.Second

func runLazyServe(ctx context.Context, g *globals, o lazyServeOptions) (err error) {
	// It runs as long as the machine, beside all else: memory is worth more than time here.
	debug.SetGCPercent(50)
	c, err := g.config()
	if err != nil {
		return err
	}
	ref, err := parseReference(g.storeURI)
	if err != nil || ref.Scheme != "lazy" || o.state == "" {
		return &usageError{errors.Join(errors.New("lazy serve needs --state, and a lazy store with --store"), err)}
	}
	// The settings may have changed since the mount was made, of which others know where its objects are.
	m, err := readLazyMount(o.state)
	if err != nil {
		return err
	}
	if c, err = m.believing(c); err != nil {
		return err
	}
	conn := fusefs.NewConn(os.NewFile(fuseFD, "/dev/fuse"))
	defer conn.Close()
	// That something is not there is remembered on disk only, where others say what has come since.
	c.network.disk()
	c.network.ttl.Negative = 0
	readers := newReaders()
	c.account = readers.account
	st, err := c.openLazy(ctx, ref)
	if err != nil {
		return err
	}
	defer closeWith(st, &err)
	objects, err := st.Objects(o.state)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, objects.Close()) }()
	// A process that serves a mount must not keep anything from being unmounted.
	if err := os.Chdir("/"); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	o.watch(func() {
		cancel()
		// There is nobody left who could wait for an answer, or for us.
		time.AfterFunc(boundEnd, func() { os.Exit(int(exitOK)) })
	})
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel()
	beside.Go(func() { objects.Tell(ctx, conn) })
	beside.Go(func() { objects.Learn(ctx) })
	beside.Go(func() { objects.LookAhead(ctx) })
	beside.Go(func() { st.cache.Maintain(ctx) })
	beside.Go(func() {
		if err := objects.AnswerControl(ctx, o.state); err != nil {
			g.log().Warn(fmt.Sprintf("nobody can ask how the mount is: %v", err))
		}
	})
	beside.Go(func() {
		if err := readers.serve(ctx, o.state); err != nil {
			g.log().Warn(fmt.Sprintf("nobody can ask for whom things came: %v", err))
		}
	})
	done := useCache(ctx, g, st)
	defer func() { err = errors.Join(err, done()) }()
	if o.socket != "" {
		listeners, err := listen(o.socket)
		if err != nil {
			return err
		}
		s := daemon.New(daemon.Options{Store: st, Version: version, Users: c.users, Log: g.log()})
		beside.Go(func() {
			if err := s.Serve(ctx, listeners...); err != nil {
				g.log().Error(fmt.Sprintf("serving '%s': %v", o.socket, err))
			}
		})
	}
	err = fusefs.Serve(ctx, conn, objects, fusefs.ServeOptions{
		TakeOver: o.takeOver, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Log: g.log(),
		// The same at all times: what is new shows by itself, and an overlay need not look again.
		RootTime: time.Unix(1, 0),
	})
	if ctx.Err() != nil {
		return nil // it is to end
	}
	return err
}

// useAgain is how often it is tried to tell that a mount uses its cache, if that cannot be told.
const useAgain = 10 * time.Second

// useCache tells those who evict objects that a mount uses them, until done is called. On a disk that is full that cannot be told
// before there is room; meanwhile the mount is served all the same, and what goes comes again.
func useCache(ctx context.Context, g *globals, st *lazyStore) (done func() error) {
	user := lazy.User{Dirs: []string{st.RealDir()}}
	done, err := st.cache.Register(ctx, user)
	if err == nil {
		return done
	}
	g.log().Warn(fmt.Sprintf("objects may be evicted though the mount uses them: %v", err))
	again, cancel := context.WithCancel(ctx)
	told := make(chan func() error, 1)
	go func() {
		defer close(told)
		for {
			select {
			case <-again.Done():
				return
			case <-time.After(useAgain):
			}
			if done, err := st.cache.Register(ctx, user); err == nil {
				told <- done
				return
			}
		}
	}()
	return func() error {
		cancel()
		if done := <-told; done != nil {
			return done()
		}
		return nil
	}
}
