package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/strata-nix/strata/builder/buildlog"
	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// hookPlace is a place that a hook has accepted to see to.
type hookPlace struct {
	h       *Hook
	p       *hookProcess
	machine string
}

// Name implements Place.
func (p *hookPlace) Name() string { return p.machine }

// Connect implements Place: the hook has done so.
func (p *hookPlace) Connect(ctx context.Context) error {
	stop := context.AfterFunc(ctx, p.p.kill)
	defer stop()
	var err error
	if p.machine, err = p.p.line(); err != nil {
		return fmt.Errorf("while reading the machine name from the build hook: %w", err)
	}
	return nil
}

// Release implements Place.
func (p *hookPlace) Release() { p.p.close() }

// Build implements Place. The hook makes the outputs valid by itself.
func (p *hookPlace) Build(ctx context.Context, job *execute.Job) (*store.BuildResult, error) {
	local := p.h.local
	drv := local.Dir().Print(job.DrvPath)
	if err := p.tellJob(job); err != nil {
		return nil, fmt.Errorf("telling the build hook about derivation '%s': %w", drv, err)
	}
	log, ctx, err := openLog(ctx, &p.h.o, local, job, p.machine)
	if err != nil {
		return nil, err
	}
	start := time.Now().Unix()
	err = p.listen(ctx, log)
	log.close()
	result := &store.BuildResult{Status: store.Built, TimesBuilt: 1, Start: start, Stop: time.Now().Unix()}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		result.Status = store.PermanentFailure
		result.Message = log.explain(drv, fmt.Sprintf("build on '%s' failed: the build hook ended with %v.", p.machine, exit))
		return result, nil
	case err != nil:
		return nil, fmt.Errorf("building derivation '%s' by the build hook: %w", drv, err)
	}
	if result.Outputs, err = p.outputs(ctx, job); err != nil {
		return nil, err
	}
	var paths []storepath.Path
	for _, real := range result.Outputs {
		paths = append(paths, real.OutPath)
	}
	return result, execute.PostBuildHook(ctx, &p.h.o, local.Dir(), job.DrvPath, paths)
}

// tellJob says what has to go to the machine, and what has to come back.
func (p *hookPlace) tellJob(job *execute.Job) error {
	dir, say := p.h.local.Dir(), p.p.say
	inputs := make([]storepath.Path, len(job.Inputs))
	for i, info := range job.Inputs {
		inputs[i] = info.Path
	}
	say.Strings(dir.PrintAll(storepath.SortUnique(inputs)))
	var missing []string
	for name, o := range job.Outputs {
		if !o.Valid {
			missing = append(missing, name)
		}
	}
	slices.Sort(missing)
	say.Strings(missing)
	if err := say.Flush(); err != nil {
		return err
	}
	return p.p.in.Close()
}

// listen reads what the hook and the builder say, until the hook has ended.
func (p *hookPlace) listen(ctx context.Context, log *log) error {
	stop := context.AfterFunc(ctx, p.p.kill)
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { log.copy(p.p.output) })
	messages := buildlog.NewLines(ctx, log.act, 0)
	messages.Trust()
	for {
		line, err := p.p.line()
		if line != "" && strings.HasPrefix(line, "@nix ") {
			_, _ = messages.Write([]byte(line + "\n")) // never fails
		} else if line != "" {
			log.line(line)
		}
		if err != nil {
			break
		}
	}
	_ = messages.Close() // it never fails
	err := p.p.wait()
	wg.Wait()
	return err
}

// copy takes what a builder prints.
func (l *log) copy(from io.Reader) {
	var line []byte
	buf := make([]byte, 4<<10)
	for {
		n, err := from.Read(buf)
		for _, part := range bytes.SplitAfter(buf[:n], []byte("\n")) {
			line = append(line, part...)
			if whole := bytes.HasSuffix(line, []byte("\n")); whole || len(line) > maxHookLine {
				l.line(strings.TrimSuffix(string(line), "\n"))
				line = line[:0]
			}
		}
		if err != nil {
			break
		}
	}
	if len(line) > 0 {
		l.line(string(line))
	}
}

// outputs looks for what the hook should have made valid.
func (p *hookPlace) outputs(ctx context.Context, job *execute.Job) (map[string]*store.Realisation, error) {
	local := p.h.local
	out := map[string]*store.Realisation{}
	var paths []storepath.Path
	for name, o := range job.Outputs {
		id := store.DrvOutput{DrvHash: job.Hashes[name], Output: name}
		out[name] = &store.Realisation{ID: id, OutPath: o.Path}
		if o.Path.IsZero() {
			found, err := local.Realisations(ctx, []store.DrvOutput{id})
			if err != nil {
				return nil, err
			}
			if found[0] == nil {
				return nil, fmt.Errorf("the build hook has not realised output '%s' of derivation '%s'", name, local.Dir().Print(job.DrvPath))
			}
			out[name] = found[0]
		}
		paths = append(paths, out[name].OutPath)
	}
	if job.Roots != nil {
		if err := job.Roots.Add(ctx, paths); err != nil {
			return nil, err
		}
	}
	valid, err := local.ValidPaths(ctx, paths)
	if err != nil {
		return nil, err
	}
	if missing := storepath.NewSet(valid...).Missing(paths); len(missing) > 0 {
		return nil, fmt.Errorf("some outputs are unexpectedly invalid: the build hook has not made '%s'", local.Dir().Print(missing[0]))
	}
	return out, nil
}
