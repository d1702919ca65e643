package nar

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestStreamTakesOneArchive(t *testing.T) {
	const after = "what follows"
	src := strings.NewReader(sampleArchive + sampleArchive + after)
	for range 2 {
		s := NewStream(src)
		got, err := io.ReadAll(s)
		if string(got) != sampleArchive || err != nil {
			t.Errorf("%d bytes of %d, %v", len(got), len(sampleArchive), err)
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("after the end: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if rest, _ := io.ReadAll(src); string(rest) != after {
		t.Errorf("%q is left", rest)
	}
}

func TestStreamSkips(t *testing.T) {
	const after = "what follows"
	src := bufio.NewReaderSize(strings.NewReader(sampleArchive+after), 64<<10)
	s := NewStream(src)
	defer s.Close()
	if _, err := io.ReadFull(s, make([]byte, 30)); err != nil {
		t.Fatal(err)
	}
	if err := s.Skip(); err != nil {
		t.Error(err)
	}
	if rest, _ := io.ReadAll(src); string(rest) != after {
		t.Errorf("%q is left", rest)
	}
}

func TestStreamOfWhatIsNoArchive(t *testing.T) {
	for _, in := range []string{"", sampleArchive[:len(sampleArchive)/2], "no archive, though as long as the beginning of one"} {
		s := NewStream(strings.NewReader(in))
		_, err := io.ReadAll(s)
		skipErr := s.Skip()
		if err == nil || !errors.Is(skipErr, err) {
			t.Errorf("%.20q: %v, %v", in, err, skipErr)
		}
		_ = s.Close()
	}
}

// Nothing reads from the source any more when a method has returned.
func TestClosedStreamLeavesItsSource(t *testing.T) {
	in := manyObjects()
	reads := 0
	s := NewStream(sourceFunc(func(p []byte) (int, error) {
		reads++
		n := copy(p, in)
		in = in[n:]
		return n, nil
	}))
	if _, err := io.ReadFull(s, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before := reads
	if _, err := io.ReadAll(s); err == nil {
		t.Error("a closed stream goes on")
	}
	if reads != before {
		t.Errorf("%d reads after Close", reads-before)
	}
}

func TestStreamClosedBeforeItsBeginning(t *testing.T) {
	s := NewStream(strings.NewReader(sampleArchive))
	_ = s.Close()
	if n, err := s.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("%d, %v", n, err)
	}
}

type sourceFunc func([]byte) (int, error)

func (f sourceFunc) Read(p []byte) (int, error) { return f(p) }
