package merge

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/image/erofs"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
)

// label is the volume's name, for people.
const label = "nix-store"

// WriteImage makes an EROFS image of a store. Equal files are one. Nothing is at the target
// before it is whole and on disk, and nothing stays after an error. The same paths with the
// same contents and path infos give the same bytes.
func (p *Plan) WriteImage(ctx context.Context, target string, o WriteOptions) (res Result, err error) {
	w, err := newWorkspace(ctx, target, o.Replace)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, w.close(ctx)) }()
	const img, db = "image", "db"
	if err := os.Mkdir(w.path(db), 0o700); err != nil {
		return res, err
	}
	if err := p.writeDatabase(ctx, w.path(db), o.registered()); err != nil {
		return res, err
	}
	crashpoint.Reached("merge: database written")
	if res.Size, err = p.writeImage(ctx, w.path(img), w.path(db)); err != nil {
		return res, err
	}
	return res, w.publish(img, o.Replace)
}

func (p *Plan) writeImage(ctx context.Context, file, db string) (size int64, err error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	iw, err := erofs.NewWriter(f, erofs.Options{Time: 1, Label: label, Link: true})
	if err != nil {
		return 0, err
	}
	name := sha256.New()
	fill := map[string]func() error{
		storeInRoot: func() error { return p.putObjects(ctx, iw, name) },
		dbInRoot:    func() error { return putFiles(iw, db) },
	}
	if err := putPlaces(iw, fill); err != nil {
		return 0, err
	}
	if err := iw.Close(uuid(name)); err != nil {
		return 0, err
	}
	if err := f.Chmod(0o644); err != nil {
		return 0, err
	}
	return f.Seek(0, io.SeekEnd)
}

// uuid makes a UUID of version 8 of a hash.
func uuid(h hash.Hash) (id [16]byte) {
	copy(id[:], h.Sum(nil))
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}

// putPlaces makes the directories of a store, and fills some of them.
func putPlaces(w *erofs.Writer, fill map[string]func() error) error {
	depth := 0
	leaveTo := func(n int) error {
		for ; depth > n; depth-- {
			if err := w.Leave(); err != nil {
				return err
			}
		}
		return nil
	}
	for _, dir := range places {
		if err := leaveTo(strings.Count(dir, "/")); err != nil {
			return err
		}
		if err := w.Mkdir(filepath.Base(dir), 0o755); err != nil {
			return err
		}
		depth++
		if f := fill[dir]; f != nil {
			if err := f(); err != nil {
				return err
			}
		}
	}
	return leaveTo(0)
}

// putFiles puts the files of a directory.
func putFiles(w *erofs.Writer, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := putFile(w, filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func putFile(w *erofs.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return w.File(filepath.Base(path), 0o444, st.Size(), f)
}

// putObjects puts all objects, and names the paths that get in.
func (p *Plan) putObjects(ctx context.Context, w *erofs.Writer, name hash.Hash) error {
	ctx, act := activity.Start(ctx, activity.Info, activity.CopyPaths, "writing the image")
	defer act.Stop()
	done := uint64(0)
	for some := range slices.Chunk(p.items, batch) {
		infos, err := p.infos(ctx, some)
		if err != nil {
			return err
		}
		var objects []object
		for i, it := range some {
			_, _ = fmt.Fprintf(name, "%s %s %t\n", p.dir.Print(it.path), infos[i].NarHash, it.dir != none)
			if it.dir != none {
				objects = append(objects, object{&p.layers[it.dir], infos[i]})
			}
		}
		err = eachArchive(ctx, objects, func(o object, r io.Reader) error {
			if err := putArchive(w, o.info, r); err != nil {
				return err
			}
			done += o.info.NarSize
			act.Progress(done, p.NarBytes, 0, 0)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// putArchive unpacks an archive into an image.
func putArchive(w *erofs.Writer, info *store.PathInfo, r io.Reader) error {
	in := nar.NewReader(r)
	var open []string // directories of the archive that were made and not left
	leaveTo := func(depth int) error {
		for ; len(open) > depth; open = open[:len(open)-1] {
			if err := w.Leave(); err != nil {
				return err
			}
		}
		return nil
	}
	for {
		e, err := in.Next()
		if errors.Is(err, io.EOF) {
			return leaveTo(0)
		}
		if err != nil {
			return err
		}
		name, depth := info.Path.Base(), 0
		if e.Path != "" {
			name, depth = e.Name(), 1+strings.Count(e.Path, "/")
		}
		if err := leaveTo(depth); err != nil {
			return err
		}
		switch e.Type {
		case nar.TypeDirectory:
			open = append(open, name)
			err = w.Mkdir(name, 0o555)
		case nar.TypeSymlink:
			err = w.Symlink(name, e.Target)
		default:
			perm := uint32(0o444)
			if e.Executable {
				perm = 0o555
			}
			err = w.File(name, perm, e.Size, in)
		}
		if err != nil {
			return err
		}
	}
}
