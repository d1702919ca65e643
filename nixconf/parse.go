package nixconf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Limits on configuration. They are far above what anybody writes.
const (
	maxFile     = 16 << 20 // bytes of one file
	maxDepth    = 32       // files that include each other
	maxIncludes = 1024     // files altogether
)

// assignment is one line "name = value".
type assignment struct {
	name, value string
	origin      Origin
}

// parser takes one file apart, and those that it includes.
type parser struct {
	out   []assignment
	open  []os.FileInfo // the files that are being read, to notice loops
	files int
}

// text reads what stands in file, or in what file stands for. Includes are
// relative to its directory.
func (p *parser) text(file, text string) error {
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		words := fields(line)
		if len(words) == 0 {
			continue
		}
		o := Origin{File: file, Line: n}
		include := words[0] == "include" || words[0] == "!include"
		switch {
		case include && len(words) == 2:
			if err := p.include(o, words[1], words[0] == "!include"); err != nil {
				return err
			}
		case !include && len(words) > 1 && words[1] == "=":
			p.out = append(p.out, assignment{name: words[0], value: strings.Join(words[2:], " "), origin: o})
		default:
			return fault(o, "syntax error in configuration line '%.200s'", strings.TrimSpace(line))
		}
	}
	return nil
}

// include reads another file. What exists but cannot be read is passed over, as
// Nix does: such a file may hold secrets for others.
func (p *parser) include(o Origin, name string, optional bool) error {
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(o.File), name)
	}
	name, err := filepath.Abs(name)
	if err != nil {
		return &Error{Origin: o, Why: "including '" + name + "'", Err: err}
	}
	if len(p.open) >= maxDepth || p.files >= maxIncludes {
		return fault(o, "including '%s': too many files include each other", name)
	}
	switch err := p.file(name); {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		if optional {
			return nil
		}
		return fault(o, "file '%s' not found", name)
	case errors.Is(err, ErrConfig):
		return err
	case errors.Is(err, errLoop):
		return fault(o, "file '%s' includes itself", name)
	default:
		return nil
	}
}

var errLoop = errors.New("file includes itself")

// file reads a file. An error that is no ErrConfig is about reading it.
func (p *parser) file(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(p.open, func(o os.FileInfo) bool { return os.SameFile(o, fi) }) {
		return errLoop
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return err
	}
	if len(text) > maxFile {
		return fault(Origin{File: name}, "more than %d bytes of configuration", maxFile)
	}
	p.files++
	p.open = append(p.open, fi)
	defer func() { p.open = p.open[:len(p.open)-1] }()
	if err := p.text(name, string(text)); err != nil {
		return notSystem(err)
	}
	return nil
}

// notSystem keeps what an included file lacks from being taken for what the
// including file lacks.
func notSystem(err error) error {
	if errors.Is(err, ErrConfig) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrConfig, err)
}

// fields splits at the blanks that Nix splits at.
func fields(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' || r == '\r' })
}
