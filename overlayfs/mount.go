package overlayfs

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
)

// OverlayMount is a mount that [Mount] made. It holds no file open.
type OverlayMount struct {
	// Record identifies the mount; it is what BeforeAttach was given.
	Record Record
	// Warnings is what the kernel and this package have to say about a mount
	// that works.
	Warnings []string
}

// attributes are those of every mount that this package makes. A store has no
// use for device files, and setuid programs in it would be a way to become
// root for whoever may add to it.
const attributes = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV

// Mount makes an overlay and attaches it at the target. Conditions that the
// kernel would refuse without saying why are checked first and arrive as
// [*LayerError]; a refusal of the kernel is a [*ConfigError] with its words.
// On error nothing is mounted.
//
// It needs CAP_SYS_ADMIN in its user namespace. It uses the mount interface of
// Linux 6.7 and falls back to older forms, which can express less.
func Mount(ctx context.Context, o Options) (*OverlayMount, error) {
	m, err := makeMount(ctx, o, false)
	if err != nil {
		return nil, fmt.Errorf("mount overlay at %q: %w", o.Target, err)
	}
	return m, nil
}

func makeMount(ctx context.Context, o Options, beneath bool) (*OverlayMount, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	userXattr, err := o.userXattr()
	if err != nil {
		return nil, err
	}
	ls, err := openLayers(o)
	if err != nil {
		return nil, err
	}
	defer ls.close()
	if err := ls.check(o, userXattr); err != nil {
		return nil, err
	}
	d, warnings, err := ls.create(o, userXattr)
	if errors.Is(err, errOldKernel) && !beneath {
		return ls.mountOldWay(ctx, o, userXattr)
	}
	if err != nil {
		return nil, ls.explain(err)
	}
	defer d.Close()
	m := &OverlayMount{Warnings: append(o.advice(), warnings...)}
	id, err := d.ID()
	if err != nil {
		return nil, err
	}
	if m.Record, err = ls.record(id); err != nil {
		return nil, err
	}
	if o.BeforeAttach != nil {
		if err := o.BeforeAttach(m.Record); err != nil {
			return nil, err
		}
	}
	// The last moment to give up without a trace.
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if beneath {
		return m, d.AttachBeneath(ls.target.fd)
	}
	return m, d.Attach(ls.target.fd)
}

// userXattr decides which kind of marks the upper gets.
func (o Options) userXattr() (bool, error) {
	if o.UserXattr != Auto {
		return o.UserXattr == On, nil
	}
	initial, err := mount.InitialUserNamespace()
	if err != nil || !initial {
		return !initial, err
	}
	return o.Upper != "" && usesUserXattr(o.Upper), nil
}

// create makes the mount without attaching it.
func (ls *layers) create(o Options, userXattr bool) (*mount.Detached, []string, error) {
	if ls.upper == nil && len(ls.lowers) == 1 {
		d, err := mount.CloneReadOnly(ls.lowers[0].procPath())
		return d, nil, err
	}
	c, err := mount.Open(Type)
	if errors.Is(err, unix.ENOSYS) {
		return nil, nil, errOldKernel
	}
	if errors.Is(err, unix.ENODEV) {
		return nil, nil, fmt.Errorf("%w: this kernel has no OverlayFS", err)
	}
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	if err := ls.configure(c, o, userXattr); err != nil {
		return nil, nil, err
	}
	attr := attributes
	if o.ReadOnly || ls.upper == nil {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	d, err := c.Mount(attr)
	return d, c.Warnings(), err
}

func (ls *layers) configure(c *mount.Context, o Options, userXattr bool) error {
	// Stock Nix looks for a line of /proc/self/mounts that begins with this.
	if err := c.SetString("source", Type); err != nil {
		return err
	}
	if err := ls.setLowers(c); err != nil {
		return err
	}
	if ls.upper != nil {
		if err := setLayer(c, "upperdir", ls.upper); err != nil {
			return err
		}
		if err := setLayer(c, "workdir", ls.work); err != nil {
			return err
		}
	}
	for _, p := range o.parameters(userXattr) {
		if err := setParameter(c, p); err != nil {
			return err
		}
	}
	if o.ReadOnly {
		if err := c.SetFlag("ro"); err != nil {
			return err
		}
	}
	return c.Create()
}

func setParameter(c *mount.Context, p string) error {
	if key, value, has := strings.Cut(p, "="); has {
		return c.SetString(key, value)
	}
	return c.SetFlag(p)
}

// setLowers hands the lowers over in the form in which the mount table should
// show them. Stock Nix wants to see lowerdir=PATH, which is possible for one
// lower with a short name; several are given one by one.
func (ls *layers) setLowers(c *mount.Context) error {
	if len(ls.lowers) == 1 {
		if q := quoteLower(ls.lowers[0].name()); len(q) <= mount.MaxString {
			return c.SetString("lowerdir", q)
		}
	}
	for i, l := range ls.lowers {
		err := setLayer(c, "lowerdir+", l)
		if i == 0 && mount.Unsupported(err) {
			return ls.joinLowers(c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// joinLowers is for kernels before 6.7, which have no lowerdir+.
func (ls *layers) joinLowers(c *mount.Context) error {
	joined := ls.joined()
	if len(joined) > mount.MaxString {
		return errOldKernel
	}
	return c.SetString("lowerdir", joined)
}

// setLayer hands over one directory: by the name the caller used, so that the
// mount table shows that name, or by descriptor when a name is too long or has
// a backslash, which upperdir takes for a quote and lowerdir+ does not.
func setLayer(c *mount.Context, key string, l *layer) error {
	name := l.name()
	if len(name) <= mount.MaxString && quoteBackslash(name) == name {
		return c.SetString(key, name)
	}
	err := c.SetFD(key, l.fd, l.path)
	if !mount.Unsupported(err) { // descriptors came with Linux 6.13
		return err
	}
	if key != "lowerdir+" {
		name = quoteBackslash(name)
	}
	if len(name) > mount.MaxString {
		return errOldKernel
	}
	return c.SetString(key, name)
}

// record describes the mount with the paths as the caller meant them.
func (ls *layers) record(id mount.ID) (Record, error) {
	fstype := Type
	if ls.upper == nil && len(ls.lowers) == 1 {
		fstype = boundType(ls.lowers[0])
	}
	r, err := mount.NewRecord(ls.target.real, fstype, id)
	if err != nil {
		return Record{}, err
	}
	for _, l := range ls.lowers {
		r.Lowers = append(r.Lowers, l.name())
	}
	if ls.upper != nil {
		r.Upper, r.Work = ls.upper.name(), ls.work.name()
	}
	r.Source = Type
	if fstype != Type {
		r.Source = r.Lowers[0]
	}
	return r, nil
}

// boundType finds the type that the mount table will show for a bind of l.
func boundType(l *layer) string {
	list, err := mount.ReadTable(func(e mount.Entry) bool { return e.ID == l.id.Mount })
	if err != nil || len(list) == 0 {
		return ""
	}
	return list[0].FSType
}

// Refresh is [Refresh] of the mount.
func (m *OverlayMount) Refresh(ctx context.Context) error { return Refresh(ctx, m.Record.Target) }

// Unmount is [Unmount] of the mount.
func (m *OverlayMount) Unmount(ctx context.Context, o UnmountOptions) error {
	return Unmount(ctx, m.Record, o)
}

// UnmountOptions say how hard to try.
type UnmountOptions struct {
	// Lazy detaches a mount that is busy: it goes from the tree at once, and
	// for good when its last user ends. Until then its upper must not be mounted
	// again.
	Lazy bool
}

// Unmount takes down the recorded mount, if it is what is visible at its
// target, and nothing else. A mount in use is a [*BusyError] that names some of
// those who use it; one that is gone is [ErrNotMounted]; one that is covered,
// moved or of another namespace is a [*StateError].
func Unmount(ctx context.Context, r Record, o UnmountOptions) error {
	return mount.Unmount(ctx, r, o.Lazy)
}
