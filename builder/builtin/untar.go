package builtin

import (
	"archive/tar"
	"errors"
	"io"
)

var errType = errors.New("unsupported file type")

// untar unpacks a tar archive.
func (t *tree) untar(r io.Reader) error {
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := t.untarEntry(h, in); err != nil {
			return &EntryError{Name: h.Name, Err: err}
		}
	}
}

func (t *tree) untarEntry(h *tar.Header, contents io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // remarks, for example the commit of a Git archive
	}
	p, err := t.place(h.Name)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return t.directory(p)
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return t.file(p, h.Mode&0o100 != 0, h.Size, contents)
	case tar.TypeSymlink:
		return t.symlink(p, h.Linkname)
	case tar.TypeLink:
		return t.hardLink(p, h.Linkname)
	}
	return errType
}
