package binarycache_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

// filesOf gives the files in a directory of a cache whose names end so.
func filesOf(t *testing.T, objects objstore.Store, dir, suffix string) (names []string) {
	t.Helper()
	for info, err := range objects.List(t.Context(), dir) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(info.Name, suffix) {
			names = append(names, info.Name)
		}
	}
	return names
}

func content(t *testing.T, objects objstore.Store, name string) []byte {
	t.Helper()
	r, _, err := objects.Get(t.Context(), name, objstore.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func put(t *testing.T, objects objstore.Store, name string, data []byte) {
	t.Helper()
	if err := objects.Put(t.Context(), name, bytes.NewReader(data), objstore.PutOptions{Size: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
}

// What was written without an index gets the one that it would have got, unless it can only be read as a whole.
func TestIndexesOfWhatIsThere(t *testing.T) {
	ctx := t.Context()
	o := storetest.Tree(t, storepath.DefaultDir, "o", map[string]string{"a": strings.Repeat("a", 300_000), "b/c": "c", "empty": ""})
	k, err := trust.GenerateKey("k-1")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		o    binarycache.Options
		want binarycache.IndexState
	}{
		"none":          {binarycache.Options{Compression: compress.None}, binarycache.IndexWritten},
		"seekable":      {binarycache.Options{Compression: compress.Zstd, Seekable: true}, binarycache.IndexWritten},
		"zstd":          {binarycache.Options{Compression: compress.Zstd}, binarycache.IndexOfWhole},
		"xz":            {binarycache.Options{Compression: compress.XZ}, binarycache.IndexOfWhole},
		"spoilt none":   {binarycache.Options{Compression: compress.None}, -1},
		"spoilt frames": {binarycache.Options{Compression: compress.Zstd, Seekable: true}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			objects := objstore.NewMemory()
			add := func(index bool) *binarycache.Store {
				s := open(t, objects, func(opt *binarycache.Options) {
					opt.Compression, opt.Seekable, opt.WriteIndex, opt.Keys = tt.o.Compression, tt.o.Seekable, index, []trust.SecretKey{k}
				})
				if err := s.Add(ctx, o.Info, o.Reader(), store.AddOptions{NoCheckSigs: true, Repair: index}); err != nil {
					t.Fatal(err)
				}
				return s
			}
			s := add(false)
			if strings.HasPrefix(name, "spoilt") {
				nar := filesOf(t, objects, "nar", "")[0]
				data := content(t, objects, nar)
				data[len(data)/2] ^= 1
				put(t, objects, nar, data)
			}
			state, err := s.AddIndex(ctx, o.Path())
			if tt.want < 0 {
				if err == nil {
					t.Error("the index of a NAR that is not the right one was made")
				}
				return
			}
			if state != tt.want || err != nil {
				t.Fatalf("%v, %v", state, err)
			}
			names := filesOf(t, objects, "", fileindex.Suffix)
			if tt.want == binarycache.IndexOfWhole {
				if len(names) > 0 {
					t.Errorf("%q is there", names)
				}
				return
			}
			made := content(t, objects, names[0])
			if state, err := s.AddIndex(ctx, o.Path()); state != binarycache.IndexThere || err != nil {
				t.Errorf("again: %v, %v", state, err)
			}
			add(true)
			if !bytes.Equal(made, content(t, objects, names[0])) {
				t.Error("written with the object it is another one")
			}
			// One that lies, and that nobody has signed, is not vouched for, but made anew.
			put(t, objects, names[0], bytes.Replace(made, []byte("Sig: k-1:"), []byte("Sig: k-9:"), 1))
			second, err := trust.GenerateKey("k-2")
			if err != nil {
				t.Fatal(err)
			}
			if signed, err := s.SignIndex(ctx, o.Path(), trust.Keys{}, second); !signed || err != nil {
				t.Fatal(signed, err)
			}
			x, err := s.NarIndex(ctx, o.Path())
			if err != nil || !x.VerifiedBy(trust.Keys{}.WithSecret(second)) {
				t.Errorf("it is not signed: %v", err)
			}
			if signed, err := s.SignIndex(ctx, o.Path(), trust.Keys{}, second); signed || err != nil {
				t.Errorf("it is signed again: %v, %v", signed, err)
			}
		})
	}
	s := open(t, objstore.NewMemory(), func(*binarycache.Options) {})
	if _, err := s.AddIndex(ctx, o.Path()); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("of what is not there: %v", err)
	}
	if signed, err := s.SignIndex(ctx, o.Path(), trust.Keys{}, k); signed || err != nil {
		t.Errorf("of what is not there: %v, %v", signed, err)
	}
}
