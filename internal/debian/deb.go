package debian

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxControl bounds the control file of a package.
const maxControl = 1 << 20

// ErrFormat is the cause of the errors about a file that is not a .deb.
var ErrFormat = errors.New("not a Debian package")

// Control reads the control file of a .deb.
func Control(deb string) (*Package, error) {
	var p *Package
	err := walk(deb, "control.tar", func(h *tar.Header, r io.Reader) error {
		if path.Clean(h.Name) != "control" {
			return nil
		}
		stanzas, err := ParseStanzas(io.LimitReader(r, maxControl))
		if err != nil {
			return err
		}
		if len(stanzas) != 1 {
			return fmt.Errorf("%w: its control file has %d stanzas", ErrFormat, len(stanzas))
		}
		p = stanzas[0]
		return nil
	})
	if err == nil && p == nil {
		err = fmt.Errorf("%s: %w: no control file", deb, ErrFormat)
	}
	return p, err
}

// Files calls f for each file that a .deb installs, in the archive's order. The
// reader gives a regular file's contents and must not be used after f returns.
func Files(deb string, f func(h *tar.Header, r io.Reader) error) error {
	return walk(deb, "data.tar", f)
}

func walk(deb, member string, f func(h *tar.Header, r io.Reader) error) error {
	file, err := os.Open(deb)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := walkMember(file, member, f); err != nil {
		return fmt.Errorf("%s: %w", deb, err)
	}
	return nil
}

func walkMember(deb io.Reader, member string, f func(h *tar.Header, r io.Reader) error) error {
	body, err := openMember(deb, member)
	if err != nil {
		return err
	}
	defer body.Close()
	files := tar.NewReader(body)
	for {
		h, err := files.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", member, err)
		}
		if err := f(h, files); err != nil {
			return err
		}
	}
}

// The outer format of a .deb is that of ar(5): a magic line, then members with
// a header of 60 bytes, padded to even length. Source: deb(5).
const (
	arMagic     = "!<arch>\n"
	arHeaderLen = 60
)

// openMember finds the member whose name begins with prefix and decompresses it.
func openMember(deb io.Reader, prefix string) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(deb, 256<<10)
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(br, magic); err != nil || string(magic) != arMagic {
		return nil, fmt.Errorf("%w: not an ar archive", ErrFormat)
	}
	header := make([]byte, arHeaderLen)
	for {
		if _, err := io.ReadFull(br, header); err != nil {
			return nil, fmt.Errorf("%w: no member %s*: %w", ErrFormat, prefix, err)
		}
		name := strings.TrimRight(string(header[:16]), " /")
		size, err := strconv.ParseInt(strings.TrimSpace(string(header[48:58])), 10, 64)
		if err != nil || size < 0 {
			return nil, fmt.Errorf("%w: bad size of member %q", ErrFormat, name)
		}
		if strings.HasPrefix(name, prefix) {
			return decompress(name, io.LimitReader(br, size))
		}
		if _, err := io.CopyN(io.Discard, br, size+size%2); err != nil {
			return nil, fmt.Errorf("%w: member %q: %w", ErrFormat, name, err)
		}
	}
}

func decompress(name string, r io.Reader) (io.ReadCloser, error) {
	switch path.Ext(name) {
	case ".xz":
		x, err := xz.NewReader(r)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(x), nil
	case ".gz":
		return gzip.NewReader(r)
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case ".tar":
		return io.NopCloser(r), nil
	}
	return nil, fmt.Errorf("%w: unknown compression of member %q", ErrFormat, name)
}
