package lazy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
)

// rechecked is when an object of the cache was last compared with its hash by this process.
type rechecked struct {
	turn chan struct{} // holds one while somebody compares
	at   time.Time
}

// clockGrain is how much later than a change its time of change may be.
const clockGrain = 20 * time.Millisecond

// recheck compares an object that is here with its hash, if that is wanted: when a file of it is first
// read, and again when the file was changed since, whoever did that and whatever times it was given.
// errAbsent says that it was another one, and is not here any more.
func (ob *object) recheck(ctx context.Context, fd int) error {
	if ob.o.s.o.Verify != VerifyAlways {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err //nolint:wrapcheck // the caller says of what
	}
	changed := time.Unix(st.Ctim.Unix())
	select {
	case ob.checked.turn <- struct{}{}:
		defer func() { <-ob.checked.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if changed.Before(ob.checked.at) {
		return nil
	}
	began := time.Now().Add(-clockGrain)
	err := ob.o.s.o.Cache.compare(ctx, ob.info)
	var wrong *store.HashMismatchError
	if errors.As(err, &wrong) {
		ob.o.s.count.damage.Add(1)
		ob.o.s.complain("changed "+ob.info.Path.Base(), fmt.Errorf("'%s' in the cache was changed, and is fetched anew: %w", ob.info.Path, err))
		if err := ob.o.s.o.Cache.discard(ctx, ob.info.Path); err != nil {
			return err
		}
		return errAbsent
	}
	if err == nil {
		ob.checked.at = began
	}
	return err
}

// compare compares an object that is here with the NAR hash that it must have.
func (c *Cache) compare(ctx context.Context, info *store.PathInfo) (err error) {
	for try := range 4 { // it may just be brought to the others
		dir := c.Objects()
		if stage, ok := c.stagedAt(info.Path); ok && try%2 == 1 {
			dir = stage
		}
		h := nixhash.SHA256.New()
		err = nar.Dump(ctx, h, filepath.Join(dir, info.Path.Base()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if got := nixhash.Sum(nixhash.SHA256, h); got != info.NarHash {
			return &store.HashMismatchError{What: "of the object in the cache", Want: info.NarHash, Got: got}
		}
		return nil
	}
	return err
}
