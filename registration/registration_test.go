package registration

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

const (
	pathA = "/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-a"
	pathB = "/nix/store/ac1bb8jgj2kvnqc1hhlrnsv9h3l1rl1l-b"
	hash  = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	plain = pathA + "\n" + hash + "\n120\n\n0\n"
	full  = pathB + "\n" + hash + "\n7\n" + pathA + ".drv\n2\n" + pathB + "\n" + pathA + "\n"
)

func readAll(r io.Reader) (infos []*store.PathInfo, err error) {
	for info, err := range Read(r, storepath.DefaultDir) {
		if err != nil {
			return infos, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

func write(infos []*store.PathInfo) string {
	var b []byte
	for _, info := range infos {
		b = Append(b, storepath.DefaultDir, info)
	}
	return string(b)
}

func TestRoundTrip(t *testing.T) {
	infos, err := readAll(strings.NewReader(plain + full))
	if err != nil || write(infos) != plain+full {
		t.Fatalf("%v:\n%s", err, write(infos))
	}
	a, b := infos[0], infos[1]
	if a.NarSize != 120 || a.NarHash.Text(nixhash.Base16) != "sha256:"+hash || !a.Deriver.IsZero() || len(a.References) != 0 {
		t.Errorf("%+v", a)
	}
	if b.Deriver.Name() != "a.drv" || len(b.References) != 2 {
		t.Errorf("%+v", b)
	}
	if infos, err := readAll(strings.NewReader("")); err != nil || infos != nil {
		t.Errorf("nothing gave %v, %v", infos, err)
	}
}

func TestReadTakesOtherSpellingsOfHashes(t *testing.T) {
	h, _ := nixhash.ParseAny(hash, nixhash.SHA256)
	for _, s := range []string{"sha256:" + hash, h.Text(nixhash.Nix32), h.Digest(nixhash.Nix32), h.Text(nixhash.SRI)} {
		infos, err := readAll(strings.NewReader(strings.Replace(plain, hash, s, 1)))
		if err != nil || write(infos) != plain {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func TestReadNamesTheLine(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{pathA, "", "line 1: cannot read the path: the line is empty"},
		{pathA, "/gnu/store/x", "line 1: cannot read the path: path '/gnu/store/x' is not in"},
		{hash, "xyz", "line 2: cannot read the hash"},
		{hash, "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709", "line 2: cannot read the hash"},
		{"120", "-1", "line 3: cannot read the size"},
		{"120", "99999999999999999999", "line 3: cannot read the size"},
		{"120\n\n", "120\nx\n", "line 4: cannot read the deriver"},
		{"\n0\n", "\n1\n", "line 6: cannot read the reference: unexpected EOF"},
		{"\n0\n", "\n1000000000\n", "line 5: cannot read the number of references"},
		{"\n0\n", "\n0", "line 5: cannot read the number of references: unexpected EOF"},
		{pathA, strings.Repeat("x", 5000), "line 1: cannot read the path: the line has more than"},
		{pathA, strings.Repeat("x", 500_000), "line 1: cannot read the path: the line has more than"},
	} {
		_, err := readAll(strings.NewReader(strings.Replace(plain, c.old, c.new, 1)))
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q for %q: %v; want %q", c.new, c.old, err, c.want)
		}
	}
}

func TestReadGivesWhatCameBeforeTheError(t *testing.T) {
	infos, err := readAll(strings.NewReader(plain + "nonsense\n"))
	if len(infos) != 1 || !errors.Is(err, ErrFormat) {
		t.Errorf("%d, %v", len(infos), err)
	}
}

func TestReadPassesOnErrorsOfItsSource(t *testing.T) {
	broken := errors.New("broken")
	for _, text := range []string{"", pathA[:20], plain[:len(plain)-2], plain} {
		_, err := readAll(io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) || errors.Is(err, ErrFormat) {
			t.Errorf("after %q: %v", text, err)
		}
	}
}

func TestTruncationIsNoticed(t *testing.T) {
	for n := 1; n < len(full); n++ {
		if infos, err := readAll(strings.NewReader(full[:n])); err == nil {
			t.Errorf("cut at %d: %d paths", n, len(infos))
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(plain + full))
	f.Add([]byte(strings.Replace(full, hash, "sha256:"+hash, 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		infos, err := readAll(bytes.NewReader(data))
		if err != nil {
			return
		}
		again, err := readAll(strings.NewReader(write(infos)))
		if err != nil || !reflect.DeepEqual(again, infos) {
			t.Fatalf("%v: %+v became %+v", err, infos, again)
		}
	})
}
