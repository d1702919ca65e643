package gc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// ProcessRoots finds the store paths that running processes use: as program,
// working directory, open or mapped file, or in their environment. What may not
// be read (another user's process) is passed over. The paths need not be valid.
//
// In whatever mount namespace a process is, the kernel tells a path from the root
// of that namespace, which is the store directory for those who see it at its
// place. Others may see it elsewhere: at the directories of also.
func ProcessRoots(ctx context.Context, procDir string, dir storepath.Dir, also ...string) (store.Roots, error) {
	entries, err := os.ReadDir(procDir)
	if err != nil {
		return nil, fmt.Errorf("looking for running processes: %w", err)
	}
	s := procScan{dir: dir, prefixes: []string{string(dir) + "/"}, roots: store.Roots{}}
	for _, d := range also {
		if p := filepath.Clean(d) + "/"; !slices.Contains(s.prefixes, p) {
			s.prefixes = append(s.prefixes, p)
		}
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if strings.Trim(e.Name(), "0123456789") != "" {
			continue
		}
		if err := s.process(filepath.Join(procDir, e.Name())); err != nil {
			return nil, fmt.Errorf("looking for running processes: %w", err)
		}
	}
	for _, name := range []string{"sys/kernel/modprobe", "sys/kernel/fbsplash", "sys/kernel/poweroff_cmd"} {
		s.text(filepath.Join(procDir, name))
	}
	return s.roots, nil
}

type procScan struct {
	dir      storepath.Dir
	prefixes []string // where the store directory is seen; the first is its name
	roots    store.Roots
}

func (s *procScan) process(proc string) error {
	s.linkAt(proc + "/exe")
	s.linkAt(proc + "/cwd")
	s.linkAt(proc + "/root")
	fds, err := os.ReadDir(proc + "/fd")
	if err != nil && !gone(err) {
		return err
	}
	for _, fd := range fds {
		s.linkAt(proc + "/fd/" + fd.Name())
	}
	s.text(proc + "/maps")
	s.text(proc + "/environ")
	return nil
}

// linkAt takes the target of a link of /proc. That a target was deleted is said
// after its name.
func (s *procScan) linkAt(link string) {
	target, err := os.Readlink(link)
	if err != nil {
		return
	}
	for _, prefix := range s.prefixes {
		if rest, ok := strings.CutPrefix(target, prefix); ok {
			s.add(link, strings.TrimSuffix(rest, " (deleted)"))
		}
	}
}

// text takes every store path that stands anywhere in a file.
func (s *procScan) text(file string) {
	data, err := os.ReadFile(file)
	if err != nil {
		return // it ended, or is not ours to read
	}
	for _, prefix := range s.prefixes {
		s.mentions(file, data, []byte(prefix))
	}
}

func (s *procScan) mentions(file string, data, prefix []byte) {
	for {
		i := bytes.Index(data, prefix)
		if i < 0 {
			return
		}
		rest := data[i+len(prefix):]
		n := 0
		for n < len(rest) && n <= storepath.HashPartLen+1+storepath.MaxNameLen && isNameByte(rest[n]) {
			n++
		}
		s.add(file, string(rest[:n]))
		data = rest[n:]
	}
}

func isNameByte(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("+-._?=", c) >= 0
}

// add takes what stands after the store directory.
func (s *procScan) add(from, target string) {
	p, _, err := s.dir.Split(s.prefixes[0] + target)
	if err != nil {
		return
	}
	for _, known := range s.roots[p] {
		if known == from {
			return
		}
	}
	s.roots[p] = append(s.roots[p], from)
}

// gone tells that a process ended meanwhile, or is none of our business.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ESRCH)
}

func isNotDir(err error) bool  { return errors.Is(err, unix.ENOTDIR) }
func isNotLink(err error) bool { return errors.Is(err, unix.EINVAL) }
