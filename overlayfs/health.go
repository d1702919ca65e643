package overlayfs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

// Health is what is worth showing about a mounted stack.
type Health struct {
	Mount MountInfo // as the kernel shows it; zero when nothing is mounted
	Depth int       // how many mounts are stacked at the target, this one on top
	State State     // of the recorded mount; Unknown without a record
	Since time.Time // when it was mounted, as recorded; the kernel does not tell
	Upper *UpperUse // nil without an upper
	// Problems are findings in words: a layer that is gone, an upper that was
	// replaced, a missing option.
	Problems []string
}

// UpperUse is how full the upper's file system is. Sizes are in bytes.
type UpperUse struct {
	Path            string
	Size, Available uint64 // of the whole file system; Available to an ordinary user
	Inodes, Free    uint64 // 0 where the file system has no fixed number
	Entries         int    // names in the upper's root, at most MaxEntries are counted
	MoreEntries     bool   // there are more than that
}

// MaxEntries is how many names in the root of an upper are counted.
const MaxEntries = 100_000

// CheckHealth looks at the mount at target without changing anything. Of the
// layers it touches only the root directories. A layer that does not answer,
// such as a FUSE lower with a stuck server, is waited for until ctx ends and
// then counts as a problem. rec may be nil.
func CheckHealth(ctx context.Context, target string, rec *Record) (Health, error) {
	h := Health{}
	if rec != nil {
		var err error
		if h.State, err = rec.Recognise(); err != nil {
			return h, err
		}
		if h.State == Mounted {
			h.Since = rec.MountedAt
		}
	}
	stack, err := Inspect(target)
	if errors.Is(err, fs.ErrNotExist) {
		h.Problems = append(h.Problems, fmt.Sprintf("target %q does not exist", target))
		return h, nil
	}
	if err != nil {
		return h, err
	}
	if h.Depth = len(stack); h.Depth == 0 {
		h.Problems = append(h.Problems, fmt.Sprintf("nothing is mounted at %q", target))
		return h, nil
	}
	h.Mount = stack[len(stack)-1]
	if rec != nil && h.State != Mounted {
		h.Problems = append(h.Problems, fmt.Sprintf("the recorded mount is %s", h.State))
	}
	if !h.Mount.IsOverlay() {
		return h, nil
	}
	h.Problems = append(h.Problems, h.Mount.layerProblems(ctx, target)...)
	if h.Mount.Upper != "" {
		h.Upper, err = upperUse(h.Mount.UpperSpellings())
		if err != nil {
			h.Problems = append(h.Problems, err.Error())
		}
	}
	return h, nil
}

func (m MountInfo) layerProblems(ctx context.Context, target string) []string {
	var out []string
	for i, l := range m.Lowers {
		if err := answers(ctx, l); err != nil {
			out = append(out, fmt.Sprintf("lower %d %q: %v", i+1, l, err))
		}
	}
	if m.Upper == "" {
		return out
	}
	if why := replaced(target, m); why != "" {
		out = append(out, "the upper directory was replaced after the mount was made: "+why)
	}
	if bornMerged(m) {
		out = append(out, "without xino=on new directories are not opaque and merge with a lower's of the same name")
	}
	return out
}

// answers asks the file system of a directory for it. A call that does not
// come back keeps a thread until it does.
func answers(ctx context.Context, dir string) error {
	done := make(chan error, 1)
	go func() {
		var st unix.Stat_t
		done <- unix.Stat(dir, &st)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("does not answer: %w", ctx.Err())
	}
}

// bornMerged reports whether directories that are made in the merged root may
// merge later. On one file system the kernel does not show xino, so only a
// mount of several is known to lack it.
func bornMerged(m MountInfo) bool {
	for _, o := range []string{"xino=on", "redirect_dir=on", "index=on", "metacopy=on"} {
		if m.Has(o) {
			return false
		}
	}
	up, err := lookAt(m.Upper)
	if err != nil {
		return false
	}
	for _, l := range m.Lowers {
		if low, err := lookAt(l); err == nil && low.device != up.device {
			return true
		}
	}
	return false
}

func upperUse(spellings []string) (*UpperUse, error) {
	u := &UpperUse{Path: spellings[0]}
	var st unix.Statfs_t
	var err error
	for _, p := range spellings {
		if err = unix.Statfs(p, &st); err == nil {
			u.Path = p
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("upper %q: %w", u.Path, err)
	}
	block := uint64(st.Frsize)
	if block == 0 {
		block = uint64(st.Bsize)
	}
	u.Size, u.Available = st.Blocks*block, st.Bavail*block
	u.Inodes, u.Free = st.Files, st.Ffree
	u.Entries, u.MoreEntries, err = countEntries(u.Path, MaxEntries)
	return u, err
}

// countEntries counts the names in a directory, without "." and "..", up to
// most, in constant memory.
func countEntries(dir string, most int) (n int, more bool, err error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, false, fmt.Errorf("count entries of %q: %w", dir, err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 64<<10)
	for n = -2; ; {
		got, err := unix.Getdents(fd, buf)
		if err != nil {
			return max(n, 0), false, fmt.Errorf("count entries of %q: %w", dir, err)
		}
		if got <= 0 {
			return max(n, 0), false, nil
		}
		// struct linux_dirent64 has its length at byte 16.
		for b := buf[:got]; len(b) > 18; n++ {
			b = b[binary.NativeEndian.Uint16(b[16:]):]
		}
		if n > most {
			return most, true, nil
		}
	}
}
