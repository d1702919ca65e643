package lazy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/strata-nix/strata/storepath"
)

// Want is something that is wanted of a store: a file of an object, or the object as a whole.
type Want struct {
	Path storepath.Path
	// File is a path in the object, its names joined by slashes; "" is the object itself: all of
	// it, or the file that it is.
	File string
}

// Profile is what a start-up read: the files, in the order in which each was first read, of the
// object that began it and of what that one refers to.
type Profile struct {
	Root  storepath.Path
	Wants []Want
}

// Limits of a profile.
const (
	// MaxWants is how many files one may have.
	MaxWants = 20_000
	// MaxProfile is how many bytes its text may have.
	MaxProfile = 16 << 20
)

// ErrProfile is the cause of every error about a text that is no profile.
var ErrProfile = errors.New("malformed profile")

// profileMagic begins the text of a profile.
const profileMagic = "strata-profile 1\n"

// Text is the profile as it is kept and exported; doc/formats/lazy-profile.md.
func (p *Profile) Text() []byte {
	b := []byte(profileMagic + p.Root.Base() + "\n")
	for _, w := range p.Wants {
		b = append(b, w.Path.Base()...)
		if w.File != "" {
			b = append(b, ' ')
			b = strconv.AppendQuoteToASCII(b, w.File)
		}
		b = append(b, '\n')
	}
	return b
}

// ParseProfile reads a profile.
func ParseProfile(text []byte) (*Profile, error) {
	if len(text) > MaxProfile {
		return nil, fmt.Errorf("%w: %d bytes are more than %d", ErrProfile, len(text), MaxProfile)
	}
	rest, ok := bytes.CutPrefix(text, []byte(profileMagic))
	if !ok {
		return nil, fmt.Errorf("%w: it does not begin with '%s'", ErrProfile, strings.TrimSpace(profileMagic))
	}
	lines := bufio.NewScanner(bytes.NewReader(rest))
	lines.Buffer(nil, 64<<10)
	p := &Profile{}
	for n := 2; lines.Scan(); n++ {
		if err := p.line(lines.Text()); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrProfile, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProfile, err)
	}
	if p.Root.IsZero() {
		return nil, fmt.Errorf("%w: it has no root", ErrProfile)
	}
	return p, nil
}

// line reads one: the first is the root, the others are wants.
func (p *Profile) line(text string) error {
	base, quoted, hasFile := strings.Cut(text, " ")
	path, err := storepath.ParseBase(base)
	if err != nil {
		return err
	}
	if p.Root.IsZero() {
		if hasFile {
			return errors.New("a root is an object")
		}
		p.Root = path
		return nil
	}
	if len(p.Wants) == MaxWants {
		return fmt.Errorf("there are more than %d files", MaxWants)
	}
	w := Want{Path: path}
	if hasFile {
		if w.File, err = strconv.Unquote(quoted); err != nil || quoted[0] != '"' {
			return fmt.Errorf("'%.100s' is not a quoted file", quoted)
		}
		if !validFile(w.File) {
			return fmt.Errorf("%.100q is not a file of an object", w.File)
		}
	}
	p.Wants = append(p.Wants, w)
	return nil
}

// validFile tells whether a path can be one in an object.
func validFile(file string) bool {
	for name := range strings.SplitSeq(file, "/") {
		if name == "" || name == "." || name == ".." || len(name) > 255 || strings.IndexByte(name, 0) >= 0 {
			return false
		}
	}
	return true
}

// merge adds what another recording of the same root has and this one lacks: what is warm does
// not show in a recording, so that a later one says less and never more.
func (p *Profile) merge(later *Profile) (changed bool) {
	known := make(map[Want]bool, len(p.Wants))
	for _, w := range p.Wants {
		known[w] = true
	}
	for _, w := range later.Wants {
		if !known[w] && len(p.Wants) < MaxWants {
			known[w], changed = true, true
			p.Wants = append(p.Wants, w)
		}
	}
	return changed
}
