package overlayfs

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
)

// unfit names the file systems that cannot hold an upper although some of them
// accept writes, by statfs magic.
var unfit = map[int64]string{
	unix.NFS_SUPER_MAGIC:       "NFS",
	unix.SMB_SUPER_MAGIC:       "SMB",
	unix.SMB2_SUPER_MAGIC:      "SMB",
	unix.CIFS_SUPER_MAGIC:      "CIFS",
	unix.V9FS_MAGIC:            "9p",
	unix.CODA_SUPER_MAGIC:      "Coda",
	unix.AFS_FS_MAGIC:          "AFS",
	unix.OVERLAYFS_SUPER_MAGIC: "another overlay",
	unix.MSDOS_SUPER_MAGIC:     "FAT",
	unix.EXFAT_SUPER_MAGIC:     "exFAT",
	unix.PROC_SUPER_MAGIC:      "proc",
	unix.SYSFS_MAGIC:           "sysfs",
	unix.CGROUP_SUPER_MAGIC:    "cgroup",
	unix.CGROUP2_SUPER_MAGIC:   "cgroup2",
	unix.SQUASHFS_MAGIC:        "squashfs",
	unix.EROFS_SUPER_MAGIC_V1:  "EROFS",
	unix.ISOFS_SUPER_MAGIC:     "ISO 9660",
}

// check makes sure of everything that the kernel would refuse without saying
// why, or accept and regret.
func (ls *layers) check(o Options, userXattr bool) error {
	if err := ls.checkOverlap(); err != nil {
		return err
	}
	if ls.upper == nil {
		return nil
	}
	for _, l := range []*layer{ls.upper, ls.work} {
		if err := l.checkFit(userXattr); err != nil {
			return err
		}
	}
	if ls.upper.dev != ls.work.dev {
		return ls.work.errorf(ErrDifferentFS, ls.upper, "")
	}
	if ls.upper.id.Mount != ls.work.id.Mount {
		return ls.work.errorf(ErrDifferentFS, ls.upper, "one file system, but two mounts of it")
	}
	if err := ls.work.checkWork(); err != nil {
		return err
	}
	if o.AllowUpperInUse {
		return nil
	}
	return ls.checkInUse()
}

func (ls *layers) checkOverlap() error {
	all := ls.all()
	for i, a := range all {
		for _, b := range all[i+1:] {
			switch {
			case a.same(b):
				return b.errorf(ErrOverlap, a, "both are the same directory")
			case a.contains(b):
				return b.errorf(ErrOverlap, a, "it lies inside")
			case b.contains(a):
				return a.errorf(ErrOverlap, b, "it lies inside")
			}
		}
	}
	// A lower under the target is hidden by the mount and works all the same;
	// an upper there could not be reached by its path any more.
	for _, l := range []*layer{ls.upper, ls.work} {
		if l != nil && (ls.target.same(l) || under(l.real, ls.target.real)) {
			return l.errorf(ErrOverlap, ls.target, "the mount would hide it")
		}
	}
	return nil
}

// checkFit finds out whether the file system has what an upper needs.
func (l *layer) checkFit(userXattr bool) error {
	if name, bad := unfit[int64(l.fs.Type)]; bad {
		return l.errorf(ErrUnfitUpper, nil, "it is %s", name)
	}
	if l.fs.Flags&unix.ST_RDONLY != 0 {
		return l.errorf(ErrUnfitUpper, nil, "it is mounted read-only")
	}
	if initial, err := mount.InitialUserNamespace(); err == nil && !initial && !userXattr {
		return l.errorf(ErrUnfitUpper, nil, "in a user namespace the marks must be user attributes (userxattr)")
	}
	prefix := xattrPrefix(userXattr)
	_, err := getxattr(l.procPath(), prefix+"opaque")
	if errors.Is(err, unix.EOPNOTSUPP) {
		return l.errorf(ErrUnfitUpper, nil, "it has no %s* extended attributes", prefix)
	}
	typed, err := tellsTypes(l.procPath())
	if err != nil {
		return l.errorf(err, nil, "")
	}
	if !typed {
		return l.errorf(ErrUnfitUpper, nil, "its directories do not tell file types (d_type; for xfs make it with ftype=1)")
	}
	return nil
}

// procPath names the very directory that was opened, whatever happens to its
// name.
func (l *layer) procPath() string { return fmt.Sprintf("/proc/self/fd/%d/.", l.fd) }

// tellsTypes looks whether the first entry of a directory has a type; every
// directory has at least "." and "..".
func tellsTypes(dir string) (bool, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	n, err := unix.Getdents(fd, buf)
	if err != nil {
		return false, err
	}
	// struct linux_dirent64: the type is the byte before the name, at 18.
	return n > 18 && buf[18] != unix.DT_UNKNOWN, nil
}

// checkWork makes sure that nothing of value is in the work directory, whose
// contents the kernel deletes when it mounts.
func (l *layer) checkWork() error {
	f, err := os.Open(l.procPath())
	if err != nil {
		return l.errorf(err, nil, "")
	}
	defer f.Close()
	names, _ := f.Readdirnames(8)
	for _, name := range names {
		if name != "work" && name != "index" {
			return l.errorf(ErrWorkNotEmpty, nil, "found %q", name)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstatat(l.fd, "work/incompat/volatile", &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
		return l.errorf(ErrWorkNotEmpty, nil,
			"a volatile mount was not taken down cleanly; the upper may be damaged; remove both to start anew")
	}
	return nil
}

// checkInUse looks for another overlay, in this namespace, with the same upper
// or work directory.
func (ls *layers) checkInUse() error {
	list, err := mount.ReadTable(func(e mount.Entry) bool { return e.FSType == "overlay" })
	if err != nil {
		return err
	}
	for _, e := range list {
		info, err := newMountInfo(e)
		if err != nil {
			continue // not readable, so not comparable
		}
		for _, l := range []*layer{ls.upper, ls.work} {
			for _, p := range append(info.UpperSpellings(), info.WorkSpellings()...) {
				if sameDirectory(p, l.real) {
					return l.errorf(ErrUpperInUse, nil, "mounted at %q", info.Target)
				}
			}
		}
	}
	return nil
}

// stackable names the file systems that themselves lie on others.
var stackable = map[int64]bool{
	unix.OVERLAYFS_SUPER_MAGIC: true,
	unix.ECRYPTFS_SUPER_MAGIC:  true,
	unix.FUSE_SUPER_MAGIC:      true,
}

// explain adds a likely reason to a refusal that the kernel gave none for.
func (ls *layers) explain(err error) error {
	var ce *ConfigError
	if !errors.As(err, &ce) {
		return err
	}
	switch {
	case errors.Is(ce.Err, unix.EPERM):
		return fmt.Errorf("%w: mounting needs CAP_SYS_ADMIN; as an ordinary user run inside a user namespace", err)
	case ce.Step != "create":
		return err
	case errors.Is(ce.Err, unix.ELOOP):
		return &LayerError{Role: "layers", Err: ErrOverlap, Detail: "seen through a bind mount: " + err.Error()}
	case errors.Is(ce.Err, unix.EINVAL):
		for _, l := range ls.lowers {
			if stackable[int64(l.fs.Type)] {
				return l.errorf(ErrNestedTooDeep, nil, "probably, as it is itself a stacked file system: %v", err)
			}
		}
	case errors.Is(ce.Err, unix.ESTALE):
		return fmt.Errorf("%w: the upper was used with index=on and other lowers", err)
	}
	return err
}
