package lazy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// FlawKind is a way in which a cache can be out of order. It is the code of a finding of package check.
type FlawKind string

// The kinds.
const (
	// FlawContents: an object is not the one that its info describes, or has none.
	FlawContents FlawKind = "cache-object-modified"
	// FlawFile: a file that objects share has not the contents that its name says.
	FlawFile FlawKind = "cache-file-modified"
	// FlawRecord: what is noted of an object, or for it, cannot be understood, or is not there.
	FlawRecord FlawKind = "cache-record-damaged"
	// FlawMode: something in an object has another mode or time than objects have.
	FlawMode FlawKind = "cache-metadata-wrong"
	// FlawStray: something belongs to no object, or was left by a process that was killed.
	FlawStray FlawKind = "cache-leftover"
)

// Flaw is one thing that is not as it should be.
type Flaw struct {
	Kind   FlawKind
	Path   string // the file
	Detail string
	// Mend mends it: what is wrong is dropped, and fetched again when it is read, or made again.
	Mend func(ctx context.Context) error
}

// Check looks for what is not as it should be in this cache, and not in those that share its bounds; with contents at all that is in
// the objects, too. It may go on beside everything else. Nothing is changed but by Mend. The error is
// for what could not be looked at.
func (c *Cache) Check(ctx context.Context, contents bool, found func(*Flaw)) error {
	k := &checking{c: c, contents: contents, found: found}
	var errs []error
	for _, look := range []func(context.Context) error{k.objects, k.records, k.pins, k.leftovers, k.files} {
		if err := look(ctx); err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cache of lazy objects: %w", err)
	}
	return nil
}

// checking is one check.
type checking struct {
	c        *Cache
	contents bool
	found    func(*Flaw)
}

// remove is the repair of what is worth nothing.
func (k *checking) remove(path string) func(context.Context) error {
	return func(ctx context.Context) error {
		err := ignoreMissing(os.Remove(path))
		if err != nil {
			_, err = nar.RemoveTree(ctx, path)
		}
		crashpoint.Reached("lazy: flaw removed")
		return err
	}
}

// objects looks at all that is in the directory of objects.
func (k *checking) objects(ctx context.Context) error {
	var errs []error
	err := eachName(ctx, k.c.Objects(), func(name string) {
		if ctx.Err() != nil {
			return
		}
		path := k.c.at(objectsDir, name)
		p, err := storepath.ParseBase(name)
		if err != nil {
			k.found(&Flaw{FlawStray, path, "it is no store object", k.remove(path)})
			return
		}
		if err := k.object(ctx, p, path); err != nil && ctx.Err() == nil {
			errs = append(errs, err)
		}
	})
	return errors.Join(append(errs, err)...)
}

// object looks at one. It may be evicted at any moment, which is no flaw.
func (k *checking) object(ctx context.Context, p storepath.Path, path string) error {
	kept, err := k.c.readInfo(p)
	if err != nil {
		if k.gone(p) {
			return nil
		}
		k.found(&Flaw{FlawContents, path, "nobody knows what it should be: " + err.Error(), func(ctx context.Context) error { return k.c.discard(ctx, p) }})
		return nil
	}
	if k.contents {
		err := k.c.compare(ctx, &kept.info)
		var wrong *store.HashMismatchError
		switch {
		case ctx.Err() != nil, k.gone(p):
			return nil
		case errors.As(err, &wrong), errors.Is(err, nar.ErrUnsupportedType):
			k.found(&Flaw{FlawContents, path, err.Error(), func(ctx context.Context) error { return k.c.discard(ctx, p) }})
			return nil
		case err != nil:
			return err
		}
	}
	if detail := wrongMode(path, k.contents); detail != "" && !k.gone(p) {
		k.found(&Flaw{FlawMode, path, detail, func(ctx context.Context) error {
			// The marks stay, which an ordinary user could not even take off a directory like that.
			keep := append([]string{"trusted.overlay.opaque", "user.overlay.opaque"}, nar.DefaultIgnoredACLs...)
			return errors.Join(nar.Canonicalise(ctx, path, nar.CanonicaliseOptions{IgnoredACLs: keep}), markOpaque(path), storeTimes(path))
		}})
	}
	tree := k.c.at(treesDir, p.Base())
	t, err := readTree(tree)
	if err == nil && k.contents {
		var l *nar.Listing
		if l, err = nar.ListTree(ctx, path); err == nil {
			if is, terr := treeOfListing(l); terr != nil || !bytes.Equal(is.Encoded(), t.Encoded()) {
				err = errors.New("it is not the tree of the object")
			}
		}
	}
	if err != nil && ctx.Err() == nil && !k.gone(p) {
		k.found(&Flaw{FlawRecord, tree, err.Error(), func(context.Context) error {
			if err := ignoreMissing(os.Remove(tree)); err != nil {
				return err
			}
			_, err := k.c.treeHere(p)
			return err
		}})
	}
	return nil
}

// gone tells whether an object has been evicted meanwhile.
func (k *checking) gone(p storepath.Path) bool { return !k.c.Has(p) }

// wrongMode finds something in an object that has not the mode and the time of a store.
func wrongMode(path string, all bool) (detail string) {
	look := func(path string) string {
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			return ""
		}
		mode := st.Mode & 0o7777
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			mode = 0o444
		case unix.S_IFDIR:
			mode &^= 0o111
			if st.Mode&0o111 != 0o111 {
				mode = 0
			}
		case unix.S_IFREG:
			if mode == 0o555 {
				mode = 0o444
			}
		}
		if mode != 0o444 {
			return fmt.Sprintf("'%s' has mode %04o", path, st.Mode&0o7777)
		}
		if st.Mtim != storeTime {
			return fmt.Sprintf("'%s' was modified", path)
		}
		return ""
	}
	if !all {
		return look(path)
	}
	_ = filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		if detail = look(path); detail != "" {
			return fs.SkipAll
		}
		return err
	})
	return detail
}

// records looks at what lies beside the objects.
func (k *checking) records(ctx context.Context) error {
	var errs []error
	for dir, read := range map[string]func(path string, p storepath.Path) error{
		infoDir: nil, treesDir: nil,
		listingsDir: func(path string, _ storepath.Path) error { _, err := readTree(path); return err },
		partialDir:  k.c.readIndex,
		profilesDir: func(_ string, p storepath.Path) error { _, err := k.c.Profile(p); return err },
	} {
		errs = append(errs, eachName(ctx, k.c.at(dir), func(name string) {
			path := k.c.at(dir, name)
			p, err := storepath.ParseBase(name)
			switch {
			case err != nil:
				if k.old(path, name) {
					k.found(&Flaw{FlawStray, path, "it is of no object", k.remove(path)})
				}
			case read != nil:
				if err := read(path, p); err != nil && !errors.Is(err, fs.ErrNotExist) {
					k.found(&Flaw{FlawRecord, path, err.Error(), k.remove(path)})
				}
			case k.c.orphan(p, path):
				k.found(&Flaw{FlawStray, path, "its object is not there", func(context.Context) error {
					k.c.removeOrphan(p, path)
					return nil
				}})
			}
		}))
	}
	return errors.Join(errs...)
}

// readIndex tries to understand a file index.
func (c *Cache) readIndex(path string, _ storepath.Path) error {
	data, err := readSmall(path, fileindex.MaxSize)
	if err != nil {
		return err
	}
	signed, err := fileindex.Parse(c.o.StoreDir, path, data)
	if err != nil {
		return err
	}
	_, err = signed.Decode()
	return err
}

// old tells whether a file that is being written at other times was left by somebody who has ended.
func (k *checking) old(path, name string) bool {
	if !strings.Contains(name, ".new-") {
		return true
	}
	fi, err := os.Lstat(path)
	return err == nil && time.Since(fi.ModTime()) > staleFile
}

// orphan tells whether a record is of an object that is neither here nor on its way.
func (c *Cache) orphan(p storepath.Path, path string) bool {
	if c.Has(p) {
		return false
	}
	lock := c.tryFetch(p)
	if lock == nil {
		return false
	}
	defer lock.done()
	_, err := os.Lstat(path)
	return err == nil && !c.Has(p)
}

// removeOrphan removes one, if it still is one.
func (c *Cache) removeOrphan(p storepath.Path, path string) {
	if lock := c.tryFetch(p); lock != nil {
		if !c.Has(p) {
			_ = os.Remove(path)
		}
		lock.done()
	}
}

// pins looks whether what is pinned can be read: nothing is evicted otherwise.
func (k *checking) pins(ctx context.Context) error {
	return eachName(ctx, k.c.at(pinsDir), func(name string) {
		path := k.c.at(pinsDir, name)
		if !validPin(name) || strings.Contains(name, ".new-") {
			if k.old(path, name) {
				k.found(&Flaw{FlawStray, path, "it is no pin", k.remove(path)})
			}
			return
		}
		text, err := readSmall(path, MaxManifest)
		if err != nil {
			return // it has just been given up
		}
		var good []storepath.Path
		bad := 0
		for line := range strings.Lines(string(text)) {
			if p, err := storepath.ParseBase(strings.TrimSuffix(line, "\n")); err == nil {
				good = append(good, p)
			} else {
				bad++
			}
		}
		if bad > 0 {
			k.found(&Flaw{FlawRecord, path, fmt.Sprintf("%d lines are no objects, so that nothing can be evicted", bad), func(context.Context) error { return k.c.Pin(name, good) }})
		}
	})
}

// leftovers looks for what killed processes have left.
func (k *checking) leftovers(ctx context.Context) error {
	err := eachName(ctx, k.c.at(tmpDir), func(name string) {
		path := k.c.at(tmpDir, name)
		if free, err := unlocked(filepath.Join(path, stageLock)); err != nil || !free {
			return
		}
		k.found(&Flaw{FlawStray, path, "a process was killed that worked there", func(ctx context.Context) error {
			k.c.uncounted()
			_, err := nar.RemoveTree(ctx, path)
			return err
		}})
	})
	uerr := eachName(ctx, k.c.at(usersDir), func(name string) {
		path := k.c.at(usersDir, name)
		if strings.HasSuffix(name, ".socket") {
			user := strings.TrimSuffix(path, ".socket")
			_, starting := os.Lstat(user + unready) // and that becomes the other one
			if _, err := os.Lstat(user); errors.Is(err, fs.ErrNotExist) && errors.Is(starting, fs.ErrNotExist) {
				k.found(&Flaw{FlawStray, path, "its process has ended", k.remove(path)})
			}
			return
		}
		if free, err := unlocked(path); err == nil && free {
			k.found(&Flaw{FlawStray, path, "its process has ended", func(context.Context) error { return removeUser(path) }})
		}
	})
	return errors.Join(err, uerr)
}

// unlocked tells whether nobody has locked a file that is there.
func unlocked(path string) (bool, error) {
	f, free, err := lockFree(path)
	if err != nil {
		return false, err
	}
	return free, f.Close()
}

// files compares files with their names.
func (k *checking) files(ctx context.Context) error {
	var errs []error
	err := eachName(ctx, k.c.at(filesDir), func(some string) {
		errs = append(errs, eachName(ctx, k.c.at(filesDir, some), func(name string) {
			path := k.c.at(filesDir, some, name)
			if strings.Contains(name, ".new-") {
				if k.old(path, name) {
					k.found(&Flaw{FlawStray, path, "a process was killed that wrote it", k.remove(path)})
				}
				return
			}
			if strings.HasSuffix(name, partSuffix) || !k.contents || ctx.Err() != nil {
				return // who reads a part compares it
			}
			ok, err := isNamed(ctx, path, name)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
			if err == nil && !ok {
				k.found(&Flaw{FlawFile, path, "", k.remove(path)})
			}
		}))
	})
	return errors.Join(append(errs, err)...)
}

// isNamed tells whether a file has the contents that its name says: see [fileindex.Contents.FileDigest].
func isNamed(ctx context.Context, path, name string) (bool, error) {
	digest, size, ok := strings.Cut(name, "-")
	want, err := strconv.ParseInt(strings.TrimSuffix(size, "x"), 10, 64)
	if !ok || err != nil {
		return false, nil //nolint:nilerr // it is no name at all
	}
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var all []byte
	buf := make([]byte, fileindex.ChunkSize)
	total := int64(0)
	for ctx.Err() == nil {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			sum := sha256.Sum256(buf[:n])
			all = append(all, sum[:]...)
			total += int64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return false, err
		}
	}
	if len(all) > sha256.Size {
		sum := sha256.Sum256(all)
		all = sum[:]
	}
	return hex.EncodeToString(all) == digest && total == want || ctx.Err() != nil, nil
}
