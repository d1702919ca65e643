package main

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// list is a file of store paths, mapped and not read: the load client must not
// be larger than what it measures.
type list struct {
	text []byte
	ends []uint32
}

// openList maps a file with one path a line.
func openList(file string) (*list, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Size() == 0 || fi.Size() >= 1<<32 {
		return nil, fmt.Errorf("%s has %d bytes", file, fi.Size())
	}
	l := new(list)
	if l.text, err = unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map %s: %w", file, err)
	}
	for at := 0; at < len(l.text); {
		n := bytes.IndexByte(l.text[at:], '\n')
		if n < 0 {
			return nil, fmt.Errorf("%s does not end with a line", file)
		}
		at += n + 1
		l.ends = append(l.ends, uint32(at-1))
	}
	return l, nil
}

func (l *list) len() int { return len(l.ends) }

func (l *list) path(i int) string {
	begin := 0
	if i > 0 {
		begin = int(l.ends[i-1]) + 1
	}
	return string(l.text[begin:l.ends[i]])
}
