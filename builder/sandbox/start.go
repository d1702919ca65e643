package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Start runs a builder. It returns when the program has been executed, with an
// [*ExecError] if it could not be, and with another error if it did not come to
// that; then nothing is left of it. When ctx ends the builder is killed. Wait
// must be called.
func Start(ctx context.Context, s Spec) (*Process, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	p, err := s.startKeeper()
	if err != nil {
		if s.Isolation != nil && ctx.Err() == nil {
			err = explain(ctx, err)
		}
		return nil, err
	}
	p.stop = context.AfterFunc(ctx, p.Kill)
	select {
	case <-p.started:
		return p, nil
	case <-p.ended:
	}
	if p.startErr == nil { // it has been started, and has ended already
		return p, nil
	}
	p.stop()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	var setup *SetupError
	if errors.As(p.startErr, &setup) && s.Isolation != nil {
		return nil, explain(ctx, p.startErr)
	}
	return nil, p.startErr
}

// explain tells what the machine lacks, if that is why isolation failed.
func explain(ctx context.Context, err error) error {
	if missing := Probe(ctx).Isolation; missing != nil {
		return missing
	}
	return err
}

// check refuses what cannot have been meant.
func (s *Spec) check() error {
	if s.Output == nil || len(s.Args) == 0 {
		return errors.New("a builder needs a name and an output")
	}
	if s.User != nil && os.Geteuid() != 0 {
		return fmt.Errorf("only root can run builders as user %d", s.User.UID)
	}
	if !filepath.IsAbs(s.Dir) {
		return fmt.Errorf("the working directory %q is not absolute", s.Dir)
	}
	if s.Isolation == nil {
		return nil
	}
	for _, m := range s.Isolation.Mounts {
		if err := m.check(); err != nil {
			return err
		}
	}
	return checkSize(s.Isolation.DevShmSize)
}

// specs divides a specification between the stages.
func (s *Spec) specs() (keeperSpec, builderSpec, error) {
	k := keeperSpec{
		Isolation: s.Isolation, Count: 1, Privileged: os.Geteuid() == 0,
		KeepGroups: s.KeepGroups, HasCgroup: s.Cgroup != nil,
	}
	b := builderSpec{
		Path: s.Path, Dir: s.Dir, Args: s.Args, Env: s.Env,
		Persona: persona(s.Platform, s.Linux26), Filter: !s.AllSyscalls, NewPrivileges: s.NewPrivileges,
	}
	if u := s.User; u != nil {
		k.HasUser, k.Exclusive, k.UID, k.GID, k.Count = true, u.lock != nil, u.UID, u.GID, max(u.Count, 1)
		if s.Isolation == nil {
			k.Groups = u.Groups
		} else {
			b.Range = k.Count > 1
		}
	}
	if s.Isolation != nil {
		var err error
		if k.Bwrap, err = findBwrap(); err != nil {
			return k, b, &UnavailableError{[]Missing{noBwrap(err)}}
		}
	}
	return k, b, nil
}

// startKeeper gives a keeper everything that it needs.
func (s *Spec) startKeeper() (*Process, error) {
	keeper, builder, err := s.specs()
	if err != nil {
		return nil, err
	}
	keeperFile, err := sealed("keeper", &keeper)
	if err != nil {
		return nil, err
	}
	defer keeperFile.Close()
	builderFile, err := sealed("builder", &builder)
	if err != nil {
		return nil, err
	}
	defer builderFile.Close()
	files := [jobFiles]*os.File{jobSpec: keeperFile, jobBuilder: builderFile, jobOutput: s.Output}
	if s.Cgroup != nil {
		files[jobCgroup] = s.Cgroup.dir
	} else {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return nil, err
		}
		defer null.Close()
		files[jobCgroup] = null
	}
	k, err := engage(s.Isolation != nil && os.Geteuid() != 0, files)
	if err != nil {
		return nil, &SetupError{Step: "start the keeper", Err: err}
	}
	return newProcess(s, k), nil
}
