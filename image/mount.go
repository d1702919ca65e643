package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
)

// Record says which mount we made; see package overlayfs.
type Record = mount.Record

// Options say what to show where.
type Options struct {
	// Source is an image file, a block device with an image, or a directory.
	Source string
	// Target is the directory to mount on.
	Target string
	// Kind, unless Auto, must be what Source is.
	Kind Kind
	// BeforeAttach is called when the mount exists but is not visible yet. It is
	// the place to store the record; an error gives the mount up.
	BeforeAttach func(Record) error
}

// Mounted is a lower that [Mount] showed. It holds no file open.
type Mounted struct {
	Kind   Kind
	Record Record
}

// attributes are those of every mount that this package makes.
const attributes = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV

// Mount shows the source at the target, read-only, nosuid and nodev. Errors are
// of type [*Error]; on error nothing is mounted and no loop device is left.
func Mount(ctx context.Context, o Options) (*Mounted, error) {
	m, err := makeMount(ctx, o)
	var ie *Error
	if err != nil && !errors.As(err, &ie) {
		err = &Error{Op: "mount", Path: o.Source, Err: err}
	}
	return m, err
}

func makeMount(ctx context.Context, o Options) (*Mounted, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h, err := Detect(o.Source)
	if err != nil {
		return nil, err
	}
	if o.Kind != Auto && o.Kind != h.Kind {
		return nil, fmt.Errorf("expected %s, found %s", o.Kind, h.Kind)
	}
	target, err := os.OpenFile(o.Target, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	defer target.Close()
	d, err := create(o.Source, h.Kind)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	rec, err := newRecord(o, h.Kind, d)
	if err != nil {
		return nil, err
	}
	if o.BeforeAttach != nil {
		if err := o.BeforeAttach(rec); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := d.Attach(int(target.Fd())); err != nil {
		return nil, err
	}
	return &Mounted{Kind: h.Kind, Record: rec}, nil
}

func newRecord(o Options, k Kind, d *mount.Detached) (Record, error) {
	id, err := d.ID()
	if err != nil {
		return Record{}, err
	}
	target, err := mount.Resolve(o.Target)
	if err != nil {
		return Record{}, err
	}
	source, err := filepath.Abs(o.Source)
	if err != nil {
		return Record{}, err
	}
	fstype := k.String()
	if k == Directory {
		if fstype, err = typeOf(o.Source); err != nil {
			return Record{}, err
		}
	}
	rec, err := mount.NewRecord(target, fstype, id)
	rec.Source = source
	return rec, err
}

// typeOf returns the type of the file system that a directory lies on, as the
// mount table will show it for a bind mount.
func typeOf(dir string) (string, error) {
	id, err := mount.Identify(dir)
	if err != nil {
		return "", err
	}
	list, err := mount.ReadTable(func(e mount.Entry) bool { return e.ID == id.Mount })
	if err != nil || len(list) == 0 {
		return "", err
	}
	return list[0].FSType, nil
}

// create makes the mount without attaching it.
func create(source string, k Kind) (*mount.Detached, error) {
	if k == Directory {
		return mount.CloneReadOnly(source)
	}
	initial, err := mount.InitialUserNamespace()
	if err != nil {
		return nil, err
	}
	if !initial || os.Geteuid() != 0 {
		return nil, ErrPrivilege
	}
	file, err := os.Open(source)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	fi, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return createFrom(k, deviceName(file))
	}
	if k == EROFS {
		d, err := createFrom(k, deviceName(file))
		// ENOTBLK: this kernel mounts from block devices only.
		if !errors.Is(err, unix.ENOTBLK) {
			return d, err
		}
	}
	loop, err := attachLoop(file)
	if err != nil {
		return nil, err
	}
	// The mount keeps the device open, and without a mount it is to go.
	defer loop.Close()
	return createFrom(k, loop.Name())
}

// deviceName is how the kernel is told about an open file. Its real name goes
// into the mount table, where it helps people; too long a name cannot.
func deviceName(f *os.File) string {
	if abs, err := filepath.Abs(f.Name()); err == nil && len(abs) <= mount.MaxString {
		return abs
	}
	return fmt.Sprintf("/proc/self/fd/%d", f.Fd())
}

func createFrom(k Kind, source string) (*mount.Detached, error) {
	c, err := mount.Open(k.String())
	if errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("%w: this kernel has no %s", err, k)
	}
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetString("source", source); err != nil {
		return nil, err
	}
	if err := c.SetFlag("ro"); err != nil {
		return nil, err
	}
	if err := c.Create(); err != nil {
		return nil, err
	}
	return c.Mount(attributes)
}

// Unmount takes the mount down if it is what is visible at its target. A busy
// one is a [*mount.BusyError] or, with lazy, is detached. See package
// overlayfs for the other errors; its Unmount takes these records too.
func (m *Mounted) Unmount(ctx context.Context, lazy bool) error {
	return mount.Unmount(ctx, m.Record, lazy)
}
