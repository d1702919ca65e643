package builtin

import (
	"archive/zip"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/strata-nix/strata/nar"
)

// unzip unpacks a zip archive.
func (t *tree) unzip(file *os.File) error {
	st, err := file.Stat()
	if err != nil {
		return err
	}
	in, err := zip.NewReader(file, st.Size())
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // those are refused below
		return err
	}
	for _, f := range in.File {
		if err := t.unzipEntry(f); err != nil {
			return &EntryError{Name: f.Name, Err: err}
		}
	}
	return nil
}

func (t *tree) unzipEntry(f *zip.File) error {
	p, err := t.place(f.Name)
	if err != nil {
		return err
	}
	mode := f.Mode()
	if mode.IsDir() {
		return t.directory(p)
	}
	contents, err := f.Open()
	if err != nil {
		return err
	}
	defer contents.Close()
	switch mode.Type() {
	case 0:
		return t.file(p, mode&0o100 != 0, int64(f.UncompressedSize64), contents)
	case fs.ModeSymlink:
		target, err := io.ReadAll(io.LimitReader(contents, nar.MaxTarget+1))
		if err != nil {
			return err
		}
		return t.symlink(p, string(target))
	}
	return errType
}
