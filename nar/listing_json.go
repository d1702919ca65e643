package nar

import (
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// MarshalJSON writes the listing as upstream writes a .ls file (version 1),
// byte for byte since some release between 2.8 and 2.26: one line, without
// spaces, with the keys in alphabetical order.
//
//	{"root":{"entries":{"hello":{"executable":true,"narOffset":400,"size":21,"type":"regular"},
//	"link":{"target":"hello","type":"symlink"}},"type":"directory"},"version":1}
//
// "executable" is left out where it would be false, "narOffset" where it would
// be 0.
//
// JSON is Unicode, and names in an archive are bytes. Where a name or a target
// is not UTF-8 the error wraps ErrNotUTF8, as upstream fails too: a listing
// with replaced characters would name files that are not there. Such an archive
// goes without a listing.
func (l *Listing) MarshalJSON() ([]byte, error) {
	if l.Root == nil {
		return nil, fmt.Errorf("listing has no root")
	}
	b, err := l.Root.AppendJSON([]byte(`{"root":`), -1)
	if err != nil {
		return nil, err
	}
	return append(b, `,"version":1}`...), nil
}

// MarshalJSON writes one node and all below it, as in a listing. It is what
// `nix store ls --json --recursive` prints.
func (n *Node) MarshalJSON() ([]byte, error) { return n.AppendJSON(nil, -1) }

// AppendJSON appends the node to b, and the nodes in it down to the given
// number of levels, all of them if it is negative. Below the last level each
// entry is an empty object: with levels 1 it is what `nix store ls --json`
// prints.
func (n *Node) AppendJSON(b []byte, levels int) ([]byte, error) {
	switch n.Type {
	case TypeRegular:
		b = append(b, '{')
		if n.Executable {
			b = append(b, `"executable":true,`...)
		}
		if n.Offset != 0 {
			b = append(b, `"narOffset":`...)
			b = strconv.AppendInt(b, n.Offset, 10)
			b = append(b, ',')
		}
		b = append(b, `"size":`...)
		b = strconv.AppendInt(b, n.Size, 10)
		return append(b, `,"type":"regular"}`...), nil
	case TypeSymlink:
		b, err := appendJSONString(append(b, `{"target":`...), n.Target)
		return append(b, `,"type":"symlink"}`...), err
	case TypeDirectory:
		b, err := n.appendEntries(append(b, `{"entries":{`...), levels)
		return append(b, `},"type":"directory"}`...), err
	}
	return nil, fmt.Errorf("listing: %w", ErrUnsupportedType)
}

func (n *Node) appendEntries(b []byte, levels int) ([]byte, error) {
	var err error
	for i, e := range n.Entries {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendJSONString(b, e.Name); err != nil {
			return nil, err
		}
		b = append(b, ':')
		if levels == 0 || levels == 1 {
			b = append(b, "{}"...)
		} else if b, err = e.Node.AppendJSON(b, levels-1); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// appendJSONString escapes as little as JSON allows, like upstream.
func appendJSONString(b []byte, s string) ([]byte, error) {
	if !utf8.ValidString(s) {
		return nil, fmt.Errorf("listing: %q %w", s, ErrNotUTF8)
	}
	const short = `btn.fr` // \b is 8 and so on
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= 8 && c <= 13 && c != 11:
			b = append(b, '\\', short[c-8])
		case c < 0x20:
			b = fmt.Appendf(b, `\u%04x`, c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"'), nil
}

// MaxListing is the largest .ls file that ReadListing takes, in bytes. The
// listing of 10^6 files has about a tenth of it.
const MaxListing = 1 << 30

// ReadListing reads a .ls file. It reads r to its end.
func ReadListing(r io.Reader) (*Listing, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxListing+1))
	if err != nil {
		return nil, fmt.Errorf("reading listing: %w", err)
	}
	if len(b) > MaxListing {
		return nil, &FormatError{Offset: MaxListing, Reason: "more than 2^30 bytes", listing: true}
	}
	l := new(Listing)
	if err := l.UnmarshalJSON(b); err != nil {
		return nil, err
	}
	return l, nil
}

// UnmarshalJSON parses a .ls file. It holds names, targets, sizes and nesting
// to the limits of archives, and refuses duplicate keys and what is not UTF-8.
// Order does not matter, unknown keys are skipped. The error is a *FormatError.
// Memory is proportional to the input.
func (l *Listing) UnmarshalJSON(data []byte) error {
	p := listingParser{in: data}
	var version int64
	var root *Node
	err := p.members(func(key string) (err error) {
		switch key {
		case "version":
			version, err = p.integer()
		case "root":
			root, err = p.node(0)
		default:
			err = p.skip(0)
		}
		return err
	})
	if err == nil {
		err = p.end()
	}
	switch {
	case err != nil:
		return err
	case version != 1:
		return p.malformed(fmt.Sprintf("version is %d, not 1", version))
	case root == nil:
		return p.malformed("no root")
	}
	l.Root = root
	return nil
}
