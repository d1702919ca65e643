package nixdb

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// RegistrationFormat says which lines a registration has. The zero value is what
// `nix-store --dump-db` prints and `--load-db` reads.
type RegistrationFormat struct {
	// NoHash leaves out the lines with hash and size, as `--register-validity` has it
	// without `--hash-given`.
	NoHash bool
	// NoDeriver writes an empty line for every deriver, as exportReferencesGraph does.
	NoDeriver bool
}

// ErrRegistration is the cause of every error about the text of a registration.
var ErrRegistration = errors.New("malformed registration")

// RegistrationError says in which line of a registration what is wrong.
type RegistrationError struct {
	Line int // from 1
	Err  error
}

func (e *RegistrationError) Error() string {
	return fmt.Sprintf("registration, line %d: %v", e.Line, e.Err)
}

// Unwrap makes it an ErrRegistration.
func (e *RegistrationError) Unwrap() []error { return []error{ErrRegistration, e.Err} }

// maxLine is more than any line can have: a path in a long store directory.
const maxLine = 8192

// ReadRegistration reads path infos from the text that `nix-store --load-db` takes,
// one at a time. It ends at the end of r; an error ends it, too. Nothing is said
// about whether references are there.
//
// The text has for each path these lines: the path; its NAR hash, base 16 without
// a prefix or any other spelling; the NAR's size; the deriver or nothing; the
// number of references; each reference.
//
// Source: decodeValidPathInfo in src/libstore/store-api.cc of Nix 2.34.
func ReadRegistration(r io.Reader, dir storepath.Dir, f RegistrationFormat) iter.Seq2[*store.PathInfo, error] {
	return func(yield func(*store.PathInfo, error) bool) {
		d := registrationReader{r: bufio.NewReaderSize(r, maxLine), dir: dir, f: f}
		for {
			info, err := d.next()
			if err == io.EOF { //nolint:errorlint // next's own word for the end
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(info, nil) {
				return
			}
		}
	}
}

type registrationReader struct {
	r    *bufio.Reader
	dir  storepath.Dir
	f    RegistrationFormat
	line int
}

var errMissingInput = errors.New("missing input")

// next reads one path info; io.EOF after the last.
func (d *registrationReader) next() (*store.PathInfo, error) {
	if _, err := d.r.Peek(1); err != nil {
		return nil, err // an error of reading is not one of the text
	}
	info := &store.PathInfo{}
	for _, step := range []func(*store.PathInfo) error{d.path, d.hashAndSize, d.deriver, d.references} {
		if err := step(info); err != nil {
			return nil, err
		}
	}
	return info, nil
}

func (d *registrationReader) fail(format string, args ...any) error {
	return &RegistrationError{Line: d.line, Err: fmt.Errorf(format, args...)}
}

// text gives the next line; it is good until the following call.
func (d *registrationReader) text() (string, error) {
	d.line++
	b, err := d.r.ReadSlice('\n')
	switch {
	case err == nil:
		return string(b[:len(b)-1]), nil
	case errors.Is(err, bufio.ErrBufferFull):
		return "", d.fail("line is longer than %d bytes", maxLine)
	case errors.Is(err, io.EOF):
		return "", d.fail("%w", errMissingInput)
	}
	return "", err
}

func (d *registrationReader) storePath() (storepath.Path, error) {
	s, err := d.text()
	if err != nil {
		return storepath.Path{}, err
	}
	p, err := d.dir.Parse(s)
	if err != nil {
		return p, d.fail("%w", err)
	}
	return p, nil
}

func (d *registrationReader) path(info *store.PathInfo) (err error) {
	info.Path, err = d.storePath()
	return err
}

func (d *registrationReader) hashAndSize(info *store.PathInfo) error {
	if d.f.NoHash {
		return nil
	}
	s, err := d.text()
	if err != nil {
		return err
	}
	if info.NarHash, err = nixhash.ParseAny(s, nixhash.SHA256); err != nil {
		return d.fail("%w", err)
	}
	if s, err = d.text(); err != nil {
		return err
	}
	if info.NarSize, err = strconv.ParseUint(s, 10, 63); err != nil {
		return d.fail("NAR size: %.40q is no number of bytes", s)
	}
	return nil
}

func (d *registrationReader) deriver(info *store.PathInfo) error {
	s, err := d.text()
	if err != nil || s == "" {
		return err
	}
	if info.Deriver, err = d.dir.Parse(s); err != nil {
		return d.fail("deriver: %w", err)
	}
	return nil
}

func (d *registrationReader) references(info *store.PathInfo) error {
	s, err := d.text()
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return d.fail("number of references: %.40q is no number", s)
	}
	for range n { // the list grows with what comes, not with what is announced
		p, err := d.storePath()
		if err != nil {
			return err
		}
		info.References = append(info.References, p)
	}
	info.References = storepath.SortUnique(info.References)
	return nil
}

// WriteRegistration writes path infos as ReadRegistration reads them. An error of
// infos ends it.
func WriteRegistration(w io.Writer, dir storepath.Dir, infos iter.Seq2[*store.PathInfo, error], f RegistrationFormat) error {
	b := bufio.NewWriter(w)
	var failed error
	line := func(parts ...string) {
		for _, s := range parts {
			_, _ = b.WriteString(s) // the error stays for the next call
		}
		failed = b.WriteByte('\n')
	}
	for info, err := range infos {
		if err != nil {
			return err
		}
		line(string(dir), "/", info.Path.Base())
		if !f.NoHash {
			line(info.NarHash.Digest(nixhash.Base16))
			line(strconv.FormatUint(info.NarSize, 10))
		}
		if f.NoDeriver || info.Deriver.IsZero() {
			line()
		} else {
			line(string(dir), "/", info.Deriver.Base())
		}
		line(strconv.Itoa(len(info.References)))
		for _, r := range info.References {
			line(string(dir), "/", r.Base())
		}
		if failed != nil {
			return failed
		}
	}
	return b.Flush()
}
