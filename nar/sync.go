package nar

import "golang.org/x/sys/unix"

// SyncTree waits until the object at path is on disk: contents, metadata and
// directory entries, but not the entry for the object itself.
func SyncTree(path string) error {
	parent, name, err := splitPath(path)
	if err != nil {
		return err
	}
	defer parent.Close()
	return syncTree(int(parent.Fd()), name, path)
}

// syncTree waits until a tree is on disk: contents, metadata and directory
// entries, but not the entry for the tree itself.
func syncTree(dirfd int, name, path string) error {
	s := syncer{trail: trail{root: path}}
	return s.object(dirfd, dirEntry{name: name}, 0)
}

type syncer struct {
	trail trail
}

func (s *syncer) object(dirfd int, e dirEntry, depth int) error {
	typ, err := e.typeAt(dirfd)
	if err != nil {
		return pathError("lstat", s.trail.at(""), err)
	}
	if typ != unix.DT_REG && typ != unix.DT_DIR {
		return nil // a symlink is part of its directory
	}
	fd, err := openat(dirfd, e.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return pathError("open", s.trail.at(""), err)
	}
	defer unix.Close(fd)
	if typ == unix.DT_DIR {
		if err := s.entries(fd, depth); err != nil {
			return err
		}
	}
	return pathError("fsync", s.trail.at(""), unix.Fsync(fd))
}

func (s *syncer) entries(fd, depth int) error {
	if depth == MaxDepth {
		return pathError("fsync", s.trail.at(""), ErrTooDeep)
	}
	list, err := readDirectory(fd)
	if err != nil {
		return pathError("readdir", s.trail.at(""), err)
	}
	for _, e := range list {
		s.trail.push(e.name)
		if err := s.object(fd, e, depth+1); err != nil {
			return err
		}
		s.trail.pop()
	}
	return nil
}
