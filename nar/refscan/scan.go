package refscan

import "slices"

// A Scanner is an io.Writer that looks for hash parts in what is written to it,
// also where they are cut by the border of two writes. Write never fails. Once
// all are found, it costs nothing.
type Scanner struct {
	m     matcher
	found []string
	tail  [2 * Len]byte // the last bytes that were written, and room for the first of the next
	n     int           // how many, below Len
}

// New returns a Scanner for the given hash parts. A string that is none is an
// error.
func New(hashParts []string) (*Scanner, error) {
	s := new(Scanner)
	for i, part := range hashParts {
		if err := s.m.add(part, i); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Scanner) Write(p []byte) (int, error) {
	if len(s.m.parts) == 0 {
		return len(p), nil
	}
	// What lies across the border, then what lies within p.
	if s.n > 0 {
		joint := append(s.tail[:s.n], p[:min(len(p), Len-1)]...)
		s.search(joint)
	}
	s.search(p)
	s.keep(p)
	return len(p), nil
}

func (s *Scanner) search(b []byte) {
	for at, _ := s.m.next(b, 0); at >= 0; at, _ = s.m.next(b, at+1) {
		part := [Len]byte(b[at:])
		s.found = append(s.found, string(part[:]))
		delete(s.m.parts, part)
		if len(s.m.parts) == 0 {
			return
		}
	}
}

// keep remembers the last bytes that may be the beginning of a part.
func (s *Scanner) keep(p []byte) {
	const most = Len - 1
	if len(p) >= most {
		s.n = copy(s.tail[:], p[len(p)-most:])
		return
	}
	drop := max(s.n+len(p)-most, 0)
	s.n = copy(s.tail[:], s.tail[drop:s.n])
	s.n += copy(s.tail[s.n:], p)
}

// Found returns the hash parts that were found so far, sorted.
func (s *Scanner) Found() []string {
	found := slices.Clone(s.found)
	slices.Sort(found)
	return found
}
