package nar

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// This is JSON, without knowledge of what the values mean. Each method takes
// what its name says, after white space, or returns a *FormatError.

// space skips white space and returns the next byte, 0 at the end.
func (p *listingParser) space() byte {
	for ; p.pos < len(p.in); p.pos++ {
		switch c := p.in[p.pos]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// take takes c if it comes next.
func (p *listingParser) take(c byte) bool {
	if p.space() != c || p.pos == len(p.in) {
		return false
	}
	p.pos++
	return true
}

func (p *listingParser) expect(c byte) error {
	if !p.take(c) {
		return p.malformed("JSON: expected '" + string(c) + "'")
	}
	return nil
}

func (p *listingParser) end() error {
	if p.space(); p.pos < len(p.in) {
		return p.malformed("JSON: something follows")
	}
	return nil
}

// members takes an object and calls member for each key, to take its value.
func (p *listingParser) members(member func(key string) error) error {
	if err := p.expect('{'); err != nil {
		return err
	}
	if p.take('}') {
		return nil
	}
	for {
		p.space()
		key, err := p.string()
		if err != nil {
			return err
		}
		if err := p.expect(':'); err != nil {
			return err
		}
		if err := member(key); err != nil {
			return err
		}
		if !p.take(',') {
			return p.expect('}')
		}
	}
}

// value takes a string that is a value.
func (p *listingParser) value() (string, error) {
	p.space()
	return p.string()
}

func (p *listingParser) boolean() (bool, error) {
	switch {
	case p.literal("true"):
		return true, nil
	case p.literal("false"):
		return false, nil
	}
	return false, p.malformed("JSON: expected true or false")
}

func (p *listingParser) literal(word string) bool {
	p.space()
	if len(p.in)-p.pos < len(word) || string(p.in[p.pos:p.pos+len(word)]) != word {
		return false
	}
	p.pos += len(word)
	return true
}

// integer takes a number from 0 to 2^63-1.
func (p *listingParser) integer() (int64, error) {
	p.space()
	from := p.pos
	for p.pos < len(p.in) && p.in[p.pos] >= '0' && p.in[p.pos] <= '9' {
		p.pos++
	}
	digits := string(p.in[from:p.pos])
	v, err := strconv.ParseUint(digits, 10, 64)
	next := byte(0)
	if p.pos < len(p.in) {
		next = p.in[p.pos]
	}
	if err != nil || v > math.MaxInt64 || len(digits) > 1 && digits[0] == '0' || next == '.' || next == 'e' || next == 'E' {
		p.pos = from
		return 0, p.malformed("JSON: expected an integer from 0 to 2^63-1")
	}
	return int64(v), nil
}

// string takes a string, which must come next.
func (p *listingParser) string() (string, error) {
	if p.pos == len(p.in) || p.in[p.pos] != '"' {
		return "", p.malformed("JSON: expected a string")
	}
	from := p.pos + 1
	for i := from; i < len(p.in); i++ {
		switch c := p.in[i]; {
		case c == '"':
			if s := p.in[from:i]; utf8.Valid(s) {
				p.pos = i + 1
				return string(s), nil
			}
			return "", p.malformed("JSON: string is not valid UTF-8")
		case c == '\\':
			return p.escapedString(from, i)
		case c < 0x20:
			p.pos = i
			return "", p.malformed("JSON: control character in a string")
		}
	}
	return "", p.malformed("JSON: string has no end")
}

// escapedString takes a string that begins at from and has its first escape at
// pos.
func (p *listingParser) escapedString(from, pos int) (string, error) {
	b := append([]byte(nil), p.in[from:pos]...)
	for p.pos = pos; p.pos < len(p.in); {
		c := p.in[p.pos]
		p.pos++
		switch {
		case c == '"':
			if !utf8.Valid(b) {
				return "", p.malformed("JSON: string is not valid UTF-8")
			}
			return string(b), nil
		case c < 0x20:
			return "", p.malformed("JSON: control character in a string")
		case c != '\\':
			b = append(b, c)
		default:
			r, ok := p.escape()
			if !ok {
				return "", p.malformed("JSON: invalid escape in a string")
			}
			b = utf8.AppendRune(b, r)
		}
	}
	return "", p.malformed("JSON: string has no end")
}

// escape takes what follows a backslash.
func (p *listingParser) escape() (rune, bool) {
	if p.pos == len(p.in) {
		return 0, false
	}
	c := p.in[p.pos]
	p.pos++
	switch c {
	case '"', '\\', '/':
		return rune(c), true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	case 'u':
		r, ok := p.hex4()
		if !ok || !utf16.IsSurrogate(r) {
			return r, ok
		}
		if len(p.in)-p.pos < 2 || p.in[p.pos] != '\\' || p.in[p.pos+1] != 'u' {
			return 0, false
		}
		p.pos += 2
		low, ok := p.hex4()
		r = utf16.DecodeRune(r, low)
		return r, ok && r != utf8.RuneError
	}
	return 0, false
}

func (p *listingParser) hex4() (rune, bool) {
	if len(p.in)-p.pos < 4 {
		return 0, false
	}
	v, err := strconv.ParseUint(string(p.in[p.pos:p.pos+4]), 16, 16)
	p.pos += 4
	return rune(v), err == nil
}

// skip takes a value of any kind.
func (p *listingParser) skip(depth int) error {
	if depth > 2*MaxDepth {
		return p.malformed("JSON is nested too deeply")
	}
	switch c := p.space(); {
	case c == '"':
		_, err := p.string()
		return err
	case c == '{':
		return p.members(func(string) error { return p.skip(depth + 1) })
	case c == '[':
		p.pos++
		if p.take(']') {
			return nil
		}
		for {
			if err := p.skip(depth + 1); err != nil {
				return err
			}
			if !p.take(',') {
				return p.expect(']')
			}
		}
	case c == '-' || c >= '0' && c <= '9':
		return p.number()
	case p.literal("true"), p.literal("false"), p.literal("null"):
		return nil
	}
	return p.malformed("JSON: expected a value")
}

// number takes a number that nobody wants to know, and that may be of any size.
func (p *listingParser) number() error {
	p.oneOf("-")
	ok := p.oneOf("0") || p.digits() // nothing may follow a 0
	if ok && p.oneOf(".") {
		ok = p.digits()
	}
	if ok && p.oneOf("eE") {
		p.oneOf("+-")
		ok = p.digits()
	}
	if !ok {
		return p.malformed("JSON: invalid number")
	}
	return nil
}

// oneOf takes one of some bytes, if it comes right here.
func (p *listingParser) oneOf(bytes string) bool {
	if p.pos == len(p.in) || strings.IndexByte(bytes, p.in[p.pos]) < 0 {
		return false
	}
	p.pos++
	return true
}

// digits takes one or more of them.
func (p *listingParser) digits() bool {
	from := p.pos
	for p.oneOf("0123456789") {
	}
	return p.pos > from
}
