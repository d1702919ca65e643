package lazy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/trust"
)

// change spoils a file of the cache, and hides that as well as one can.
func change(t testing.TB, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	text[0] ^= 1
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, text, 0o600), os.Chmod(path, fi.Mode()), os.Chtimes(path, fi.ModTime(), fi.ModTime())); err != nil {
		t.Fatal(err)
	}
}

// What is in the cache is compared when it is first read, and after it was changed.
func TestVerifyAlways(t *testing.T) {
	o := tree(t, "o")
	from := newOrigin(t, "a", o)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted()}, Verify: lazy.VerifyAlways, Graduate: true}, lazy.CacheOptions{})
	if len(s.store.FrontDirs()) > 0 {
		t.Error("what is not compared is read past the mount")
	}
	s.wants(o.Path(), "bin/hello", "hello from o")
	s.settled()
	from.Calls()
	for n := range 2 {
		change(t, filepath.Join(s.cache.Objects(), o.Path().Base(), "bin/hello"))
		s.wants(o.Path(), "bin/hello", "hello from o") // of the same process
		if d := s.store.Counts().Damaged; d != int64(n)+1 {
			t.Errorf("counted %d times", d)
		}
		s.objects.Close() //nolint:errcheck // it is opened again below
		s.reopen()
	}
	if n := from.nars(); n != 2 {
		t.Errorf("fetched %d times", n)
	}
	// Otherwise what is here is believed.
	plain := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted()}}, lazy.CacheOptions{Dir: s.cache.Dir()})
	change(t, filepath.Join(s.cache.Objects(), o.Path().Base(), "bin/hello"))
	if got, err := plain.read(t.Context(), o.Path(), "bin/hello"); err != nil || got == "hello from o" {
		t.Errorf("%q, %v", got, err)
	}
}

// halves gives a stream in two parts, the second one when it is let.
type halves struct {
	first, second io.Reader
	let           <-chan struct{}
}

func (h *halves) Read(p []byte) (int, error) {
	if n, err := h.first.Read(p); n > 0 || !errors.Is(err, io.EOF) {
		return n, err
	}
	<-h.let
	return h.second.Read(p)
}

func streamed(t *testing.T) (o storetest.Object, from *origin, let chan struct{}, spoiltLate *bool) {
	t.Helper()
	o = storetest.Tree(t, dir, "o", map[string]string{"a": "the beginning", "b": strings.Repeat("x", 1<<20), "c": "the end"})
	from = newOriginWith(t, "a", compress.None, o) // halves of what comes are halves of the NAR
	let, spoiltLate = make(chan struct{}), new(bool)
	spoil(from, func(b io.ReadCloser) io.ReadCloser {
		data, _ := io.ReadAll(b)
		half := len(data) / 2
		second := bytes.Clone(data[half:])
		if *spoiltLate {
			second[len(second)-200] ^= 1
		}
		return body{&halves{bytes.NewReader(data[:half]), bytes.NewReader(second), let}, b}
	})
	return o, from, let, spoiltLate
}

// readPart reads the beginning of a file.
func (s *setup) readPart(ctx context.Context, o storetest.Object, file string, size int) (string, error) {
	ob, node, err := s.find(ctx, o.Path(), file)
	if err != nil {
		return "", err
	}
	p := make([]byte, size)
	n, err := ob.ReadAt(ctx, node, p, 0)
	return string(p[:n]), err
}

func TestVerifyStream(t *testing.T) {
	o, from, let, _ := streamed(t)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted()}, Verify: lazy.VerifyStream}, lazy.CacheOptions{})
	if got, err := s.readPart(t.Context(), o, "a", 13); err != nil || got != "the beginning" {
		t.Errorf("%q, %v", got, err) // while the rest is still to come
	}
	ctx, cancel := context.WithCancel(t.Context())
	waits := make(chan error, 1)
	go func() {
		_, err := s.readPart(ctx, o, "c", 7)
		waits <- err
	}()
	cancel()
	if err := <-waits; !errors.Is(err, context.Canceled) {
		t.Errorf("a reader that was interrupted: %v", err)
	}
	close(let)
	if got, err := s.readPart(t.Context(), o, "c", 7); err != nil || got != "the end" {
		t.Errorf("%q, %v", got, err)
	}
	s.settled()
	if !s.cache.Has(o.Path()) {
		t.Error("it is not kept")
	}
	if n := from.nars(); n != 1 {
		t.Errorf("%d NARs were fetched", n)
	}
}

// openFiles counts how often this process has a file open.
func openFiles(t *testing.T, path string) (n int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range all {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && to == path {
			n++
		}
	}
	return n
}

// Who streams an object that another process fetches gets it from there.
func TestVerifyStreamOfWhatAnotherProcessFetches(t *testing.T) {
	o, from, let, _ := streamed(t)
	opts := lazy.Options{Origins: []lazy.Origin{from.trusted()}, Verify: lazy.VerifyStream}
	s := newSetup(t, opts, lazy.CacheOptions{})
	if _, err := s.readPart(t.Context(), o, "a", 13); err != nil {
		t.Fatal(err)
	}
	other := newSetup(t, opts, lazy.CacheOptions{Dir: s.cache.Dir()})
	got := make(chan string, 1)
	go func() {
		text, err := other.readPart(t.Context(), o, "c", 7)
		got <- fmt.Sprint(text, err)
	}()
	for openFiles(t, filepath.Join(s.cache.Dir(), "fetch", o.Path().HashPart())) < 2 { // the lock that both want
		time.Sleep(time.Millisecond)
	}
	close(let)
	if text := <-got; text != "the end<nil>" {
		t.Error(text)
	}
	if n := from.nars(); n != 1 {
		t.Errorf("%d NARs were fetched", n)
	}
}

// With a signed index what is read is compared first, and nothing else comes.
func TestVerifyStreamWithAnIndex(t *testing.T) {
	for name, how := range map[string]struct {
		form                  binarycache.Options
		signed, wrong, inPart bool
	}{
		"zstd":            {form: forms["zstd"], signed: true, inPart: true},
		"not compressed":  {form: forms["not compressed"], signed: true, inPart: true},
		"nobody signed":   {form: forms["zstd"]},
		"parts are wrong": {form: forms["not compressed"], signed: true, wrong: true},
		"only as a whole": {form: binarycache.Options{Compression: compress.Gzip}, signed: true},
	} {
		t.Run(name, func(t *testing.T) {
			o, files := large(t, "o")
			signer := key(t, "k-1")
			o = sign(t, o, signer)
			form := how.form
			form.WriteListing = true
			if how.signed {
				form.Keys = []trust.SecretKey{signer}
			}
			from := indexed(t, "a", form, o)
			if how.wrong {
				from.Body = func(name string, b io.ReadCloser) io.ReadCloser {
					if !strings.HasPrefix(name, "nar/") {
						return b
					}
					data, _ := io.ReadAll(b)
					return body{strings.NewReader(strings.ToUpper(string(data))), b}
				}
			}
			s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(false)}, Keys: keys(t, signer), Verify: lazy.VerifyStream}, lazy.CacheOptions{})
			got, err := s.read(t.Context(), o.Path(), "bin/hello")
			if how.wrong {
				if err == nil {
					t.Errorf("%q is given although it is known to be wrong", got)
				}
				return
			}
			if err != nil || got != files["bin/hello"] {
				t.Errorf("%q, %v", got, err)
			}
			n, parts := from.taken()
			if parts != 1 || how.inPart && n > 200_000 {
				t.Errorf("%d bytes were read by %d requests", n, parts)
			}
			if err := s.objects.Close(); err != nil {
				t.Error(err)
			}
			s.reopen()
			for file, want := range files {
				s.wants(o.Path(), file, want)
			}
		})
	}
}

// When the end shows that it was wrong, nobody gets any more of it.
func TestVerifyStreamRefuses(t *testing.T) {
	o, from, let, spoilt := streamed(t)
	*spoilt = true
	good := newOrigin(t, "good", o)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted(), good.trusted()}, Verify: lazy.VerifyStream}, lazy.CacheOptions{})
	if got, err := s.readPart(t.Context(), o, "a", 13); err != nil || got != "the beginning" {
		t.Errorf("%q, %v", got, err)
	}
	close(let)
	for end := time.Now().Add(time.Minute); s.store.Counts().Refused == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it is never refused")
		}
	}
	s.objects.Close() //nolint:errcheck // what is under way ends
	for range 2 {
		ob, node, err := s.find(t.Context(), o.Path(), "a")
		if err == nil {
			_, err = ob.ReadAt(t.Context(), node, make([]byte, 10), 0)
		}
		if !errors.Is(err, lazy.ErrRefused) || errors.Is(err, fusefs.ErrStale) {
			t.Errorf("%v", err)
		}
	}
	if c := s.store.Counts(); c.Refused != 1 || c.EIO == 0 {
		t.Errorf("%+v", c)
	}
	if s.cache.Has(o.Path()) {
		t.Error("it is kept")
	}
	s.reopen()
}
