package nar

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// str spells tokens in wire form, independently of the code under test.
func str(tokens ...string) string {
	var b strings.Builder
	for _, t := range tokens {
		for n, i := len(t), 0; i < 8; i++ {
			b.WriteByte(byte(n >> (8 * i)))
		}
		b.WriteString(t)
		for b.Len()%8 != 0 {
			b.WriteByte(0)
		}
	}
	return b.String()
}

const magicWord = "nix-archive-1"

func fileTokens(exec bool, contents string) string {
	if exec {
		return str("(", "type", "regular", "executable", "", "contents", contents, ")")
	}
	return str("(", "type", "regular", "contents", contents, ")")
}

func linkTokens(target string) string { return str("(", "type", "symlink", "target", target, ")") }

// dirTokens takes names and objects in turn.
func dirTokens(namesAndObjects ...string) string {
	s := str("(", "type", "directory")
	for i := 0; i < len(namesAndObjects); i += 2 {
		s += str("entry", "(", "name", namesAndObjects[i], "node") + namesAndObjects[i+1] + str(")")
	}
	return s + str(")")
}

func archive(object string) string { return str(magicWord) + object }

type object struct {
	Entry
	Contents string
}

// sampleArchive has every kind of object, and sizes on both sides of the
// padding.
var sampleArchive = archive(dirTokens(
	"a", dirTokens("b", fileTokens(true, "#!/bin/sh\necho hello\n")),
	"a.d", dirTokens(),
	"eight", fileTokens(false, "12345678"),
	"empty", fileTokens(false, ""),
	"link", linkTokens("../a/b"),
	"nonutf8\xff", fileTokens(true, ""),
))

// sampleObjects is what it holds.
var sampleObjects = []object{
	{Entry: Entry{Path: "", Type: TypeDirectory}},
	{Entry: Entry{Path: "a", Type: TypeDirectory}},
	{Entry: Entry{Path: "a/b", Type: TypeRegular, Executable: true, Size: 21, Offset: 400}, Contents: "#!/bin/sh\necho hello\n"},
	{Entry: Entry{Path: "a.d", Type: TypeDirectory}},
	{Entry: Entry{Path: "eight", Type: TypeRegular, Size: 8, Offset: 808}, Contents: "12345678"},
	{Entry: Entry{Path: "empty", Type: TypeRegular, Offset: 1000}},
	{Entry: Entry{Path: "link", Type: TypeSymlink, Target: "../a/b"}},
	{Entry: Entry{Path: "nonutf8\xff", Type: TypeRegular, Executable: true, Offset: 1408}},
}

func readAll(r *Reader) ([]object, error) {
	var all []object
	for {
		e, err := r.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		contents, err := io.ReadAll(r)
		if err != nil {
			return all, err
		}
		all = append(all, object{e, string(contents)})
	}
}

// readers are the ways in which a Reader can get at its bytes.
var readers = map[string]func(io.Reader) io.Reader{
	"plain":        func(r io.Reader) io.Reader { return struct{ io.Reader }{r} },
	"one byte":     iotest.OneByteReader,
	"data err":     iotest.DataErrReader,
	"bufio":        func(r io.Reader) io.Reader { return bufio.NewReader(r) },
	"small bufio":  func(r io.Reader) io.Reader { return bufio.NewReaderSize(r, 16) },
	"bufio 512":    func(r io.Reader) io.Reader { return bufio.NewReaderSize(iotest.OneByteReader(r), 512) },
	"bufio halves": func(r io.Reader) io.Reader { return bufio.NewReader(iotest.HalfReader(r)) },
}

func TestReaderGivesEntriesAndStopsAtTheEnd(t *testing.T) {
	for name, wrap := range readers {
		t.Run(name, func(t *testing.T) {
			src := wrap(strings.NewReader(sampleArchive + "what follows"))
			if name == "data err" { // its nature is to end with the last byte
				src = wrap(strings.NewReader(sampleArchive))
			}
			r := NewReader(src)
			got, err := readAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(sampleObjects, got); d != "" {
				t.Error(d)
			}
			if r.Offset() != int64(len(sampleArchive)) {
				t.Errorf("Offset() = %d, want %d", r.Offset(), len(sampleArchive))
			}
			for _, o := range got {
				if o.Size > 0 && !strings.HasPrefix(sampleArchive[o.Offset:], o.Contents) {
					t.Errorf("%s: contents are not at %d", o.Path, o.Offset)
				}
			}
			if _, err := r.Next(); err != io.EOF {
				t.Errorf("after the end: %v", err)
			}
			rest, err := io.ReadAll(src)
			if err != nil || name != "data err" && string(rest) != "what follows" {
				t.Errorf("rest = %q, %v", rest, err)
			}
		})
	}
}

func TestReaderSkipsUnreadContents(t *testing.T) {
	big := strings.Repeat("x", 1<<20+3)
	text := archive(dirTokens("a", fileTokens(false, big), "b", fileTokens(false, "bb")))
	for name, wrap := range readers {
		r := NewReader(wrap(strings.NewReader(text)))
		r.Next()
		r.Next()
		io.ReadFull(r, make([]byte, 7))
		if e, err := r.Next(); err != nil || e.Path != "b" {
			t.Fatalf("%s: %v, %v", name, e, err)
		}
		var b bytes.Buffer
		if n, err := r.WriteTo(&b); n != 2 || err != nil || b.String() != "bb" {
			t.Errorf("%s: WriteTo = %d, %v, %q", name, n, err, &b)
		}
		if _, err := r.Next(); err != io.EOF {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReaderRefuses(t *testing.T) {
	file := fileTokens(false, "x")
	long := strings.Repeat("n", 256)
	nest := func(n int) string {
		s := file
		for range n - 1 {
			s = dirTokens("d", s)
		}
		return archive(s)
	}
	pad := func(s, old, new string) string { // corrupt padding
		if !strings.Contains(s, old) {
			panic("nothing to corrupt")
		}
		return strings.Replace(s, old, new, 1)
	}
	for _, tt := range []struct{ name, in, reason string }{
		{"empty", "", "unexpected end of file"},
		{"text", "hello, world", "doesn't look like"},
		{"other version", str("nix-archive-2"), "doesn't look like"},
		{"magic padding", pad(archive(file), "-1\x00", "-1\x01"), "doesn't look like"},
		{"no paren", str(magicWord, "type"), "expected tag '(', got \"type\""},
		{"no type", str(magicWord, "(", "kind"), "expected tag 'type', got \"kind\""},
		{"unknown type", str(magicWord, "(", "type", "fifo"), `unknown file type "fifo"`},
		{"huge token", str(magicWord) + "\xff\xff\xff\xff\xff\xff\xff\xffxxxxxxxxxxxxxxxx", "a string of 18446744073709551615 bytes"},
		{"executable with value", str(magicWord, "(", "type", "regular", "executable", "yes", "contents", "", ")"), "expected tag ''"},
		{"executable twice", str(magicWord, "(", "type", "regular", "executable", "", "executable", "", "contents", "", ")"), "expected tag 'contents'"},
		{"no contents", str(magicWord, "(", "type", "regular", ")") + str(")", ")"), "expected tag 'contents', got \")\""},
		{"contents then executable", str(magicWord, "(", "type", "regular", "contents", "", "executable", "", ")"), "expected tag ')'"},
		{"size above 2^63-1", str(magicWord, "(", "type", "regular", "contents") + "\x00\x00\x00\x00\x00\x00\x00\x80", "above 2^63-1"},
		{"contents padding", pad(archive(file), "x\x00\x00\x00\x00\x00\x00\x00"+str(")"), "x\x00\x00\x00\x00\x00\x00\x01"+str(")")), "non-zero padding"},
		{"name padding", pad(archive(dirTokens("n", file)), "n\x00\x00\x00\x00\x00\x00\x00", "n\x00\x00\x01\x00\x00\x00\x00"), "non-zero padding"},
		{"target padding", pad(archive(linkTokens("t")), "t\x00\x00\x00\x00\x00\x00\x00", "t\x00\x00\x00\x00\x00\x00z"), "non-zero padding"},
		{"token padding", pad(archive(file), "(\x00", "(\x01"), "expected tag '('"},
		{"empty target", archive(linkTokens("")), "empty symlink target"},
		{"NUL in target", archive(linkTokens("a\x00b")), "NUL byte"},
		{"long target", archive(linkTokens(strings.Repeat("t", 4096))), "longer than 4095"},
		{"symlink without target", str(magicWord, "(", "type", "symlink", ")", ")", ")"), "expected tag 'target'"},
		{"empty name", archive(dirTokens("", file)), "empty file name"},
		{"dot", archive(dirTokens(".", file)), "file name is '.'"},
		{"dot dot", archive(dirTokens("..", file)), "file name is '..'"},
		{"slash", archive(dirTokens("a/b", file)), "contains a slash"},
		{"absolute", archive(dirTokens("/etc", file)), "contains a slash"},
		{"NUL in name", archive(dirTokens("a\x00", file)), "contains a NUL"},
		{"long name", archive(dirTokens(long, file)), "longer than 255"},
		{"duplicate", archive(dirTokens("a", file, "a", file)), `two entries named "a"`},
		{"symlink then duplicate directory", archive(dirTokens("a", linkTokens("/"), "a", dirTokens("x", file))), `two entries named "a"`},
		{"unsorted", archive(dirTokens("b", file, "a", file)), `"a" comes after "b"`},
		{"unsorted by case", archive(dirTokens("a", file, "B", file)), `"B" comes after "a"`},
		{"unsorted by sign of char", archive(dirTokens("\xff", file, "a", file)), `comes after`},
		{"unsorted below", archive(dirTokens("d", dirTokens("b", file, "a", file))), `"a" comes after "b"`},
		{"unsorted after a directory", archive(dirTokens("d", dirTokens("z", file), "c", file)), `"c" comes after "d"`},
		{"nested too deeply", nest(65), "maximum NAR directory depth of 64"},
		{"entry without end", archive(dirTokens("a", file+str("extra"))), "expected tag ')'"},
		{"neither entry nor end", str(magicWord, "(", "type", "directory", "file"), "expected tag 'entry' or ')'"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for kind, wrap := range readers {
				_, err := readAll(NewReader(wrap(strings.NewReader(tt.in))))
				var fe *FormatError
				if !errors.As(err, &fe) || !strings.Contains(fe.Reason, tt.reason) {
					t.Errorf("%s: got %v, want %q", kind, err, tt.reason)
				}
			}
		})
	}
	for _, ok := range []string{
		nest(64),
		archive(linkTokens(strings.Repeat("t", 4095))),
		archive(dirTokens(long[:255], file)),
		archive(dirTokens("a", file, "b\xff", file, "\xff", file)),
	} {
		for kind, wrap := range readers {
			if _, err := readAll(NewReader(wrap(strings.NewReader(ok)))); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
		}
	}
}

func TestErrorNamesThePlace(t *testing.T) {
	in := archive(dirTokens("d", dirTokens("b", fileTokens(false, "x"), "a", fileTokens(false, ""))))
	_, err := readAll(NewReader(strings.NewReader(in)))
	want := fmt.Sprintf(`bad archive: directory is not sorted: "a" comes after "b" at offset %d in "d"`, strings.LastIndex(in, str("a")))
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestTruncatedAtEveryByte(t *testing.T) {
	for kind, wrap := range readers {
		for n := range len(sampleArchive) {
			_, err := readAll(NewReader(wrap(strings.NewReader(sampleArchive[:n]))))
			var fe *FormatError
			if !errors.Is(err, io.ErrUnexpectedEOF) || !errors.As(err, &fe) || fe.Offset > int64(n) {
				t.Fatalf("%s: cut at %d: %v", kind, n, err)
			}
		}
	}
}

func TestReaderPassesOnErrorsOfItsSource(t *testing.T) {
	boom := errors.New("boom")
	for kind, wrap := range readers {
		if kind == "data err" { // reads ahead by one read, whose error it keeps
			continue
		}
		for n := range len(sampleArchive) {
			r := NewReader(wrap(io.MultiReader(strings.NewReader(sampleArchive[:n]), iotest.ErrReader(boom))))
			_, err := readAll(r)
			var fe *FormatError
			if errors.As(err, &fe) || !errors.Is(err, boom) {
				t.Fatalf("%s: at %d: %v", kind, n, err)
			}
			if _, again := r.Next(); again != err {
				t.Fatalf("%s: at %d: %v did not stick: %v", kind, n, err, again)
			}
		}
	}
}

func TestCopyIsExact(t *testing.T) {
	big := archive(dirTokens("big", fileTokens(false, strings.Repeat("0123456789", 100_000)), "c", fileTokens(true, "c")))
	for kind, wrap := range readers {
		for _, want := range []string{sampleArchive, big, archive(fileTokens(false, "root"))} {
			src := wrap(strings.NewReader(want))
			var got bytes.Buffer
			n, err := Copy(&got, src)
			if err != nil || n != int64(len(want)) || got.String() != want {
				t.Fatalf("%s: %d of %d bytes, %v", kind, n, len(want), err)
			}
		}
	}
	var got bytes.Buffer
	n, err := Copy(&got, strings.NewReader(sampleArchive[:700]))
	if !errors.Is(err, io.ErrUnexpectedEOF) || n != int64(got.Len()) || !strings.HasPrefix(sampleArchive, got.String()) {
		t.Errorf("truncated: %d, %v", n, err)
	}
	full := errors.New("disk full")
	if _, err := Copy(failingWriter{full}, strings.NewReader(big)); err != full {
		t.Errorf("got %v, want the writer's error", err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func encode(all []object) (string, error) {
	var b bytes.Buffer
	w := NewWriter(&b)
	for _, o := range all {
		if err := w.Next(o.Entry); err != nil {
			return "", err
		}
		if _, err := io.WriteString(w, o.Contents); err != nil {
			return "", err
		}
	}
	err := w.Close()
	return b.String(), err
}

func TestWriterRoundTrip(t *testing.T) {
	got, err := encode(sampleObjects)
	if err != nil || got != sampleArchive {
		t.Errorf("%v\n%s", err, cmp.Diff(sampleArchive, got))
	}
	huge := []object{{Entry{Type: TypeRegular, Size: 200_001}, strings.Repeat("h", 200_001)}}
	if got, err := encode(huge); err != nil || got != archive(fileTokens(false, huge[0].Contents)) {
		t.Errorf("large file: %v", err)
	}
	for _, root := range []string{fileTokens(true, "x"), linkTokens("t"), dirTokens()} {
		all, err := readAll(NewReader(strings.NewReader(archive(root))))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := encode(all); err != nil || got != archive(root) {
			t.Errorf("%v\n%s", err, cmp.Diff(archive(root), got))
		}
	}
}

func TestWriterKeepsCallersInOrder(t *testing.T) {
	dir := func(p string) object { return object{Entry: Entry{Path: p, Type: TypeDirectory}} }
	file := func(p string) object { return object{Entry: Entry{Path: p, Type: TypeRegular}} }
	deep := []object{dir("")}
	for n := 1; n <= 64; n++ {
		deep = append(deep, dir(strings.Repeat("/d", n)[1:]))
	}
	for name, all := range map[string][]object{
		"nothing":               nil,
		"no root":               {file("a")},
		"two roots":             {dir(""), dir("")},
		"entry under file":      {dir(""), file("a"), file("a/b")},
		"entry under root file": {file(""), file("a")},
		"parent missing":        {dir(""), file("a/b")},
		"parent closed":         {dir(""), dir("a"), dir("b"), file("a/c")},
		"unsorted":              {dir(""), file("b"), file("a")},
		"duplicate":             {dir(""), file("a"), file("a")},
		"duplicate directory":   {dir(""), dir("a"), file("a/x"), dir("a")},
		"dot dot":               {dir(""), file("..")},
		"double slash":          {dir(""), dir("a"), file("a//b")},
		"absolute":              {dir(""), file("/a")},
		"short contents":        {{Entry{Type: TypeRegular, Size: 2}, "x"}},
		"long contents":         {{Entry{Type: TypeRegular, Size: 2}, "xxx"}},
		"contents of directory": {{Entry{Type: TypeDirectory}, "x"}},
		"negative size":         {{Entry{Type: TypeRegular, Size: -1}, ""}},
		"empty target":          {{Entry{Type: TypeSymlink}, ""}},
		"no type":               {{}},
		"too deep":              deep,
	} {
		if _, err := encode(all); !errors.Is(err, ErrWriteOrder) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := encode(deep[:64]); err != nil {
		t.Errorf("64 deep: %v", err)
	}
	// Bytes order "a.d" before "a/b" in a path, but "a" is the sibling.
	if _, err := encode([]object{dir(""), dir("a"), file("a/b"), dir("a.d")}); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sampleArchive))
	f.Add([]byte(archive(linkTokens("x"))))
	f.Add([]byte(archive(dirTokens("b", dirTokens(), "a", dirTokens()))))
	f.Fuzz(func(t *testing.T, in []byte) {
		src := bytes.NewReader(in)
		exact, err1 := readAll(NewReader(struct{ io.Reader }{src}))
		taken := len(in) - src.Len()
		buffered, err2 := readAll(NewReader(bufio.NewReader(bytes.NewReader(in))))
		if fmt.Sprint(err1) != fmt.Sprint(err2) || !cmp.Equal(exact, buffered) {
			t.Fatalf("plain and buffered readers differ: %v, %v", err1, err2)
		}
		if err1 != nil {
			return
		}
		// One tree has one archive, so encoding it again must give the same.
		again, err := encode(exact)
		if err != nil || again != string(in[:taken]) {
			t.Fatalf("not canonical: %v\n%q\n%q", err, in[:taken], again)
		}
	})
}
