package overlayfs

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// hideMerged deals with directories that exist in the upper and in a lower and
// are not opaque. The indexes in which say which of out they are; the names
// they got go to trash.
//
// They are renamed in the upper, where the kernel does not see it: who uses the
// merged directory goes on doing so unharmed. After a refresh the kernel has
// forgotten all of them that nobody uses. Those that somebody uses are put
// back.
func (r *Remover) hideMerged(ctx context.Context, which []int, out []Removal, trash []string) error {
	if len(which) == 0 {
		return nil
	}
	up := int(r.upper.Fd())
	tags := make([]tag, len(which))
	for n, i := range which {
		if err := unix.Renameat(up, out[i].Name, up, trash[i]); err != nil {
			trash[i], out[i].Err = "", fmt.Errorf("remove %q: %w", out[i].Name, err)
			continue
		}
		tags[n], out[i].Err = putTag(up, trash[i])
	}
	refreshed := r.Refresh(ctx)
	if errors.Is(refreshed, ErrListingsStale) {
		refreshed = nil
	}
	for n, i := range which {
		if trash[i] == "" {
			continue
		}
		res := &out[i]
		if res.Err == nil && refreshed == nil && !tags[n].shows(int(r.merged.Fd()), res.Name) {
			res.LowerShows = true
			continue
		}
		if res.Err == nil && refreshed == nil {
			res.Err = fmt.Errorf("remove %q: %w", res.Name, ErrInUse)
		}
		if err := r.putBack(tags[n], trash[i], res.Name); err != nil {
			res.Err = errors.Join(res.Err, err)
		}
		trash[i] = ""
	}
	return refreshed
}

func (r *Remover) putBack(t tag, trash, name string) error {
	up := int(r.upper.Fd())
	if err := unix.Renameat2(up, trash, up, name, unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("put %q back in place from %q: %w", name, trash, err)
	}
	return t.restore(up, name)
}

// tag is a modification time that no other directory has. Set on a directory
// in the upper, it tells whether a merged directory still stands on that one:
// a merged directory shows the times of its upper part. Its owner may set it
// whatever the permissions are.
type tag struct {
	before, mark unix.Timespec
	set          bool
}

func putTag(dirfd int, name string) (tag, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return tag{}, err
	}
	var b [8]byte
	rand.Read(b[:])
	bits := binary.LittleEndian.Uint64(b[:])
	// Any second of the next century or so, any nanosecond.
	t := tag{before: st.Mtim, mark: unix.Timespec{Sec: int64(bits >> 32), Nsec: int64(uint32(bits) % 1e9)}}
	err := setMtime(dirfd, name, t.mark)
	t.set = err == nil
	return t, err
}

func setMtime(dirfd int, name string, t unix.Timespec) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, t}
	return unix.UtimesNanoAt(dirfd, name, times, unix.AT_SYMLINK_NOFOLLOW)
}

// shows reports whether name in dirfd stands on the tagged directory. When it
// cannot be told, it does.
func (t tag) shows(dirfd int, name string) bool {
	var st unix.Stat_t
	err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return err != nil || st.Mtim == t.mark
}

func (t tag) restore(dirfd int, name string) error {
	if !t.set {
		return nil
	}
	return setMtime(dirfd, name, t.before)
}
