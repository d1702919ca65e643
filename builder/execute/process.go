package execute

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder/buildlog"
	"github.com/strata-nix/strata/builder/environment"
	"github.com/strata-nix/strata/builder/sandbox"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// drainTime is how long output is waited for after the builder has ended, if
// somebody holds its terminal who was not seen to be a part of it.
const drainTime = time.Second

// exited is how a builder ended.
type exited struct{ sandbox.Exit }

func (e exited) ok() bool { return e.Status.Exited() && e.Status.ExitStatus() == 0 }

func (e exited) String() string {
	if e.Status.Signaled() {
		return ended(0, e.Status.Signal())
	}
	return ended(e.Status.ExitStatus(), 0)
}

// execute runs the builder to its end, with its log and its limits.
func (b *build) execute(ctx context.Context) (exited, error) {
	if !b.apart {
		if _, err := os.Lstat(environment.Home); err == nil {
			return exited{}, fmt.Errorf("home directory \"%s\" exists; please remove it to assure purity of builds without sandboxing", environment.Home)
		}
	}
	if err := b.openLog(ctx); err != nil {
		return exited{}, err
	}
	defer b.closeLog(ctx)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := &watch{
		write: b.write, stop: cancel, drv: b.dir.Print(b.job.DrvPath),
		maxSize: b.o.MaxBuildLogSize, maxSilence: b.o.MaxSilentTime, maxTime: b.o.Timeout,
	}
	run := b.runProcess
	if b.job.Drv.IsBuiltin() {
		run = b.runBuiltin
	}
	exit, err := run(ctx, w)
	var limit *failure
	if errors.As(context.Cause(ctx), &limit) {
		return exit, limit
	}
	return exit, err
}

// runProcess starts the builder, reads what it says, and waits for it.
func (b *build) runProcess(ctx context.Context, w *watch) (_ exited, err error) {
	if b.term, err = openTerminal(b.own); err != nil {
		return exited{}, err
	}
	started := make(chan *sandbox.Process, 1)
	if b.attrs.RecursiveNix() {
		if err := b.serveNix(ctx, started); err != nil {
			return exited{}, err
		}
		defer b.nix.stop()
	}
	spec := b.spec()
	activity.Logf(ctx, activity.Chatty, "executing builder '%s'", spec.Path)
	began := time.Now()
	p, err := sandbox.Start(ctx, spec)
	b.term.closeSlave()
	var notExecuted *sandbox.ExecError
	if errors.As(err, &notExecuted) {
		b.write([]byte("error: " + capitalised(notExecuted) + "\n"))
		return failed, nil
	}
	if err != nil {
		return exited{}, err
	}
	started <- p
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() { w.read(b.term.master) })
	wg.Go(func() { w.limits(done) })
	exit, err := p.Wait()
	close(done)
	// Nobody is left who could write, so that the reading ends by itself.
	_ = b.term.master.SetReadDeadline(time.Now().Add(drainTime))
	wg.Wait()
	b.term.rest(w.take) // unless we had no time to read it all
	b.tellFetched(ctx, p.Pid(), began)
	return exited{exit}, err
}

// tellFetched tells what came from elsewhere because the builder read it.
func (b *build) tellFetched(ctx context.Context, parent int, began time.Time) {
	meter, ok := store.As[store.FetchMeter](b.s)
	if !ok {
		return
	}
	n, err := meter.FetchedFor(context.WithoutCancel(ctx), parent, began)
	if err != nil {
		activity.Logf(ctx, activity.Talkative, "how much was fetched for '%s' is not known: %v", b.dir.Print(b.job.DrvPath), err)
	}
	if b.result.Fetched = n; n > 0 {
		b.act.Result(activity.InputsFetched, activity.Int(n))
		b.write(fmt.Appendf(nil, "strata: %.1f MiB of inputs were fetched as they were read\n", float64(n)/(1<<20)))
	}
}

// capitalised says why a program was not executed in the C library's words, which
// people look for; Go begins them with a small letter.
func capitalised(e *sandbox.ExecError) string {
	why := e.Err.Error()
	return fmt.Sprintf("executing '%s': %s%s", e.Path, strings.ToUpper(why[:1]), why[1:])
}

// spec tells the sandbox what to run.
func (b *build) spec() sandbox.Spec {
	drv := b.job.Drv
	args := []string{path.Base(drv.Builder)}
	for _, a := range drv.Args {
		args = append(args, derivation.Rewrite(a, b.scratch.rewrites))
	}
	s := sandbox.Spec{
		Path: drv.Builder, Args: args, Env: b.env.List(), Dir: b.seenBuildDir(),
		Output: b.term.slave, User: b.user, KeepGroups: b.o.KeepGroups, Cgroup: b.cgroup,
		Platform: drv.Platform, Linux26: b.o.ImpersonateLinux26,
		AllSyscalls: b.o.NoFilterSyscalls, NewPrivileges: b.o.AllowNewPrivileges,
	}
	if b.boxed {
		s.Isolation = &sandbox.Isolation{
			Mounts: b.chroot.mounts, Network: !b.kind.IsSandboxed(),
			KVM: b.systemFeature("kvm"), DevShmSize: b.o.SandboxDevShmSize,
		}
	}
	return s
}

// serveNix lets the builder use the store. What it adds is shown to it, by the
// process that started gives.
func (b *build) serveNix(ctx context.Context, started chan *sandbox.Process) error {
	if err := b.require("recursive-nix"); err != nil {
		return err
	}
	if b.o.ServeNix == nil {
		return failf(store.MiscFailure, "%v", &store.UnsupportedError{Op: "recursive Nix", Store: b.s.URI()})
	}
	show := func(ctx context.Context, path storepath.Path) error {
		if !b.boxed {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case p := <-started:
			started <- p
			return p.Show(ctx, b.real(path), b.dir.Print(path))
		}
	}
	var err error
	b.nix, err = startNix(ctx, newRestricted(b.s, b.job, show), b.tmp, b.own, b.o.ServeNix)
	return err
}

// openLog makes the file of the log, and the lines that clients see.
func (b *build) openLog(ctx context.Context) (err error) {
	n := b.o.LogLines
	if n == 0 {
		n = DefaultLogLines
	}
	b.lines = buildlog.NewLines(ctx, b.act, n)
	if !b.o.NoBuildLog {
		b.file, err = buildlog.Create(context.WithoutCancel(ctx), b.s.LogDir(), b.job.DrvPath, b.o.PlainBuildLog)
	}
	return err
}

func (b *build) closeLog(ctx context.Context) {
	_ = b.lines.Close() // it never fails
	if b.file != nil {
		if err := b.file.Close(); err != nil {
			activity.Warnf(ctx, "the log of '%s' is not complete: %v", b.dir.Print(b.job.DrvPath), err)
		}
	}
}

// write adds to the log.
func (b *build) write(p []byte) {
	if b.file != nil {
		_, _ = b.file.Write(p) // fails when it is closed
	}
	_, _ = b.lines.Write(p) // never fails
}
