package nixdb_test

import (
	"bytes"
	"errors"
	"iter"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

func readAll(infos iter.Seq2[*store.PathInfo, error]) (list []*store.PathInfo, err error) {
	for i, err := range infos {
		if err != nil {
			return list, err
		}
		list = append(list, i)
	}
	return list, nil
}

func each(infos []*store.PathInfo) iter.Seq2[*store.PathInfo, error] {
	return func(yield func(*store.PathInfo, error) bool) {
		for _, i := range infos {
			if !yield(i, nil) {
				return
			}
		}
	}
}

const (
	libPath  = "/nix/store/00000000000000000000000000000001-lib"
	toolPath = "/nix/store/00000000000000000000000000000002-tool"
	emptyNar = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

func TestRegistrationText(t *testing.T) {
	text := libPath + "\n" + emptyNar + "\n112\n\n0\n" +
		toolPath + "\n" + emptyNar + "\n18446744073\n" + toolPath + ".drv\n2\n" + toolPath + "\n" + libPath + "\n"
	parse := func(s string) storepath.Path {
		p, err := dir.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	want := []*store.PathInfo{
		{Path: parse(libPath), NarHash: nixhash.Of(nixhash.SHA256, ""), NarSize: 112},
		{Path: parse(toolPath), NarHash: nixhash.Of(nixhash.SHA256, ""), NarSize: 18446744073,
			Deriver: parse(toolPath + ".drv"), References: []storepath.Path{parse(libPath), parse(toolPath)}},
	}
	got, err := readAll(nixdb.ReadRegistration(iotest.OneByteReader(strings.NewReader(text)), dir, nixdb.RegistrationFormat{}))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, comparable); d != "" {
		t.Error(d)
	}
	var b bytes.Buffer
	if err := nixdb.WriteRegistration(&b, dir, each(want), nixdb.RegistrationFormat{}); err != nil {
		t.Fatal(err)
	}
	sorted := strings.Replace(text, toolPath+"\n"+libPath+"\n", libPath+"\n"+toolPath+"\n", 1)
	if d := cmp.Diff(sorted, b.String()); d != "" {
		t.Error(d)
	}
	b.Reset()
	short := nixdb.RegistrationFormat{NoHash: true, NoDeriver: true}
	if err := nixdb.WriteRegistration(&b, dir, each(want), short); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(libPath+"\n\n0\n"+toolPath+"\n\n2\n"+libPath+"\n"+toolPath+"\n", b.String()); d != "" {
		t.Error(d)
	}
	if got, err = readAll(nixdb.ReadRegistration(&b, dir, short)); err != nil || len(got) != 2 || !got[1].NarHash.IsZero() {
		t.Errorf("%v, %v", got, err)
	}
}

func TestMalformedRegistrationNamesTheLine(t *testing.T) {
	good := libPath + "\n" + emptyNar + "\n112\n\n0\n"
	for name, tc := range map[string]struct {
		text string
		line int
	}{
		"no newline":        {libPath, 1},
		"another directory": {"/gnu/store/00000000000000000000000000000001-lib\n", 1},
		"empty line":        {good + "\n", 6},
		"bad hash":          {good + libPath + "\nabc\n", 7},
		"SHA-1":             {libPath + "\nsha1:da39a3ee5e6b4b0d3255bfef95601890afd80709\n", 2},
		"no size":           {libPath + "\n" + emptyNar + "\n\n", 3},
		"huge size":         {libPath + "\n" + emptyNar + "\n9223372036854775808\n", 3},
		"bad deriver":       {libPath + "\n" + emptyNar + "\n1\nx\n", 4},
		"negative count":    {libPath + "\n" + emptyNar + "\n1\n\n-1\n", 5},
		"too few":           {libPath + "\n" + emptyNar + "\n1\n\n2000000000\n" + libPath + "\n", 7},
		"end in the middle": {libPath + "\n" + emptyNar + "\n", 3},
		"long line":         {good + strings.Repeat("x", 10000) + "\n", 6},
	} {
		_, err := readAll(nixdb.ReadRegistration(strings.NewReader(tc.text), dir, nixdb.RegistrationFormat{}))
		var e *nixdb.RegistrationError
		if !errors.As(err, &e) || e.Line != tc.line || !errors.Is(err, nixdb.ErrRegistration) {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken := errors.New("broken pipe")
	r := iotest.ErrReader(broken)
	if _, err := readAll(nixdb.ReadRegistration(r, dir, nixdb.RegistrationFormat{})); !errors.Is(err, broken) || errors.Is(err, nixdb.ErrRegistration) {
		t.Errorf("error of the reader: %v", err)
	}
}

// What can be read is written back as it was, or with its references sorted.
func FuzzReadRegistration(f *testing.F) {
	f.Fuzz(func(t *testing.T, text []byte, noHash bool) {
		format := nixdb.RegistrationFormat{NoHash: noHash}
		infos, err := readAll(nixdb.ReadRegistration(bytes.NewReader(text), dir, format))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := nixdb.WriteRegistration(&b, dir, each(infos), format); err != nil {
			t.Fatal(err)
		}
		again, err := readAll(nixdb.ReadRegistration(&b, dir, format))
		if err != nil {
			t.Fatalf("own output: %v", err)
		}
		if d := cmp.Diff(infos, again, comparable); d != "" {
			t.Error(d)
		}
	})
}
