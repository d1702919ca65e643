package gc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/store"
)

// tidy ends a collection: it waits for what is being deleted, drops links that are of
// no use any more, and makes out the account.
func (c *collection) tidy(ctx context.Context) error {
	c.result.Paths = c.texts.list
	deletes := c.opts.Action == store.DeleteDead || c.opts.Action == store.DeleteSpecific
	// Whether a file may have lost a name that has others: not if nothing was deleted.
	shared := c.opts.Action != store.DeleteSpecific
	var err error
	if c.trash != nil {
		c.result.BytesFreed = c.trash.settle()
		err = errors.Join(c.trash.close(), c.trash.failed.err())
		shared = c.trash.links.used
		crashpoint.Reached("gc: trash removed")
	}
	if !deletes || ctx.Err() != nil || c.opts.Action == store.DeleteSpecific && !shared {
		return err
	}
	freed, dropErr := c.dropLinks(ctx)
	c.result.BytesFreed += freed
	return errors.Join(err, dropErr)
}

// dropLinks deletes all links that are the last names of their files: what keeps the
// bytes of files on disk that objects shared.
func (c *collection) dropLinks(ctx context.Context) (uint64, error) {
	if c.Links == "" {
		return 0, nil
	}
	activity.Logf(ctx, activity.Info, "deleting unused links...")
	dir, err := os.Open(c.links())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("deleting unused links: %w", err)
	}
	defer func() { _ = dir.Close() }()
	seen, err := os.OpenFile(filepath.Join(c.RealDir, c.Links), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return 0, fmt.Errorf("deleting unused links: %w", err)
	}
	defer func() { _ = seen.Close() }()

	var freed atomic.Uint64
	var wg sync.WaitGroup
	names := make(chan []string, runtime.GOMAXPROCS(0))
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for list := range names {
				for _, n := range list {
					freed.Add(dropLink(int(dir.Fd()), int(seen.Fd()), n))
				}
			}
		})
	}
	err = inLists(ctx, dir, names)
	close(names)
	wg.Wait()
	if err != nil {
		err = fmt.Errorf("deleting unused links: %w", err)
	}
	return freed.Load(), err
}

// inLists sends the names in a directory, many at a time.
func inLists(ctx context.Context, dir *os.File, to chan<- []string) error {
	const many = 1024
	list := make([]string, 0, many)
	err := readDirents(int(dir.Fd()), nil, func(e dirent) error {
		if list = append(list, string(e.name)); len(list) == many {
			to <- list
			list = make([]string, 0, many)
		}
		return ctx.Err()
	})
	to <- list
	return err
}

// dropLink deletes a link if it is the last name of its file, and tells how many bytes
// that gave back. It is looked at where it lies, and deleted where it is seen.
func dropLink(lies, seen int, name string) uint64 {
	var st unix.Stat_t
	if unix.Fstatat(lies, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Nlink != 1 || st.Mode&unix.S_IFMT == unix.S_IFCHR {
		return 0
	}
	freed := uint64(st.Blocks) * 512 //nolint:gosec // a count
	if unix.Unlinkat(seen, name, 0) != nil {
		return 0
	}
	// Where a lower has a link of that name, it is hidden now, for nothing.
	if unix.Fstatat(lies, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR {
		_ = unix.Unlinkat(lies, name, 0)
	}
	return freed
}

// isHere tells whether anything of a name lies where objects may be deleted.
func (p *Parts) isHere(name string) bool {
	var st unix.Stat_t
	return unix.Lstat(filepath.Join(p.Deletable, name), &st) == nil && st.Mode&unix.S_IFMT != unix.S_IFCHR
}
