package fusefs

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
)

// MountOptions say what is mounted where.
type MountOptions struct {
	Target string // an existing directory
	// Name is what the mount table shows as its source; "strata" unless set.
	Name string
	// Private shows the mount to nobody but the user of this process. Otherwise everybody may
	// read: in a user namespace everybody in it.
	Private bool
	// BeforeAttach, if not nil, gets the record of the mount when it exists and nobody sees
	// it yet. An error from it gives the mount up.
	BeforeAttach func(mount.Record) error
}

// FSType is the type of the mounts in the kernel's table.
const FSType = "fuse.strata"

// Mount makes a mount that is not served yet: programs that use it wait. The caller
// serves the connection, and closes it; the mount is useless then, and somebody has to
// unmount it.
func Mount(o MountOptions) (*Conn, mount.Record, error) {
	c, rec, err := attach(o)
	if err != nil {
		return nil, rec, fmt.Errorf("mounting a FUSE file system at '%s': %w", o.Target, err)
	}
	return c, rec, nil
}

func attach(o MountOptions) (_ *Conn, rec mount.Record, err error) {
	dev, err := openDevice()
	if err != nil {
		return nil, rec, err
	}
	defer func() {
		if err != nil {
			_ = dev.Close()
		}
	}()
	d, err := create(dev, o)
	if err != nil {
		return nil, rec, err
	}
	defer d.Close()
	on, err := unix.Open(o.Target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, rec, err
	}
	defer unix.Close(on)
	id, err := d.ID()
	if err != nil {
		return nil, rec, err
	}
	at, err := mount.Resolve(o.Target)
	if err != nil {
		return nil, rec, err
	}
	if rec, err = mount.NewRecord(at, FSType, id); err != nil {
		return nil, rec, err
	}
	if o.BeforeAttach != nil {
		if err := o.BeforeAttach(rec); err != nil {
			return nil, rec, err
		}
	}
	if err := d.Attach(on); err != nil {
		return nil, rec, err
	}
	return NewConn(dev), rec, nil
}

// create makes the file system and a mount of it that is not attached.
func create(dev *os.File, o MountOptions) (*mount.Detached, error) {
	c, err := mount.Open("fuse")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	name := o.Name
	if name == "" {
		name = "strata"
	}
	set := func(key, value string) {
		if err == nil {
			err = c.SetString(key, value)
		}
	}
	flag := func(key string) {
		if err == nil {
			err = c.SetFlag(key)
		}
	}
	set("source", name)
	set("subtype", "strata")
	set("fd", fmt.Sprint(dev.Fd()))
	set("rootmode", "40000")
	set("user_id", fmt.Sprint(os.Geteuid()))
	set("group_id", fmt.Sprint(os.Getegid()))
	flag("default_permissions")
	if !o.Private {
		flag("allow_other")
	}
	if err != nil {
		return nil, err
	}
	if err := c.Create(); err != nil {
		return nil, err
	}
	return c.Mount(unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
}
