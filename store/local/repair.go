package local

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// repair makes the object of a valid path anew, from the first substituter that
// has it with the very contents that we have registered: that is all the trust
// it takes.
func (s *Store) repair(ctx context.Context, info *store.PathInfo) error {
	failed := fmt.Errorf("cannot repair path '%s'", s.dir.Print(info.Path))
	if s.opts.Substituters == nil {
		return failed
	}
	subs, err := s.opts.Substituters(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", failed, err)
	}
	defer func() {
		for _, sub := range subs {
			_ = sub.Close()
		}
	}()
	for _, sub := range subs {
		err := s.repairFrom(ctx, info, sub)
		if err == nil {
			return nil
		}
		failed = fmt.Errorf("%w: %w", failed, err)
	}
	return failed
}

func (s *Store) repairFrom(ctx context.Context, info *store.PathInfo, from store.Store) error {
	source, err := store.Need[store.NarSource](from, "narFromPath")
	if err != nil {
		return err
	}
	theirs, err := from.PathInfos(ctx, []storepath.Path{info.Path})
	if err != nil {
		return err
	}
	if theirs[0] == nil {
		return fmt.Errorf("'%s' does not have it", from.URI())
	}
	if theirs[0].NarHash != info.NarHash {
		return fmt.Errorf("'%s' has it with other contents", from.URI())
	}
	whole := info.Clone()
	whole.NarSize = theirs[0].NarSize
	path := s.dir.Print(info.Path)
	text := fmt.Sprintf("copying path '%s' from '%s'", path, from.URI())
	ctx, act := activity.Start(ctx, activity.Info, activity.CopyPath, text, activity.Text(path), activity.Text(from.URI()), activity.Text(s.uri))
	defer act.Stop()
	r, w := io.Pipe()
	go func() { w.CloseWithError(source.NarFromPath(ctx, info.Path, w)) }()
	err = s.Add(ctx, whole, r, store.AddOptions{Repair: true, NoCheckSigs: true})
	return errors.Join(err, r.Close())
}
