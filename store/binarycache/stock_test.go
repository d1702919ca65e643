package binarycache_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/filetransfer"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/objstore"
	objhttp "github.com/strata-nix/strata/objstore/http"
	"github.com/strata-nix/strata/objstore/s3"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

// nar gives the NAR of a path.
func narOf(t *testing.T, s store.Store, p storepath.Path) []byte {
	t.Helper()
	r, err := store.OpenNar(t.Context(), s, p)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// allPaths lists a store, sorted.
func allPaths(t *testing.T, s store.Lister) (paths []storepath.Path) {
	t.Helper()
	for p, err := range s.AllPaths(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return storepath.SortUnique(paths)
}

// stockObjects makes a few objects that refer to each other in a stock store, and
// gives the paths that together need all of them.
func stockObjects(t *testing.T, nix *testenv.NixEnv) []string {
	t.Helper()
	nix.WriteFile(t, "tree/bin/hello", "#!/bin/sh\necho hello\n")
	if err := os.Chmod(filepath.Join(nix.Dir, "tree/bin/hello"), 0o755); err != nil {
		t.Fatal(err)
	}
	nix.WriteFile(t, "tree/large", strings.Repeat("0123456789abcdef", 200_000))
	if err := os.Symlink("bin/hello", filepath.Join(nix.Dir, "tree/link")); err != nil {
		t.Fatal(err)
	}
	tree := nix.Run(t, "nix-store", "--add", filepath.Join(nix.Dir, "tree"))
	text := nix.Run(t, "nix-instantiate", "--eval", "--strict", "--read-write-mode", "--expr", fmt.Sprintf(`builtins.toFile "text" "see ${builtins.storePath %q}"`, tree))
	return []string{tree, strings.Trim(text, `"`)}
}

// What stock Nix writes is read here, with every compression that it has.
func TestReadStockCaches(t *testing.T) {
	nix := testenv.Nix(t, "2.34")
	paths := stockObjects(t, nix)
	key, _ := newKey(t, nix)
	for _, m := range compress.Methods {
		t.Run(string(m), func(t *testing.T) {
			dir := filepath.Join(nix.Dir, "cache-"+string(m))
			nix.Run(t, "nix", append([]string{"copy", "--to",
				fmt.Sprintf("file://%s?compression=%s&write-nar-listing=true&secret-key=%s", dir, m, key)}, paths...)...)
			objects, err := objstore.NewDirectory(dir)
			if err != nil {
				t.Fatal(err)
			}
			s := open(t, objects, nil)
			if got := s.Dir().PrintAll(allPaths(t, s)); !slices.Equal(got, sorted(paths)) {
				t.Errorf("%q, want %q", got, paths)
			}
			for _, full := range paths {
				p, err := s.Dir().Parse(full)
				if err != nil {
					t.Fatal(err)
				}
				var want bytes.Buffer
				dump := nix.Command(t.Context(), "nix-store", "--dump", full)
				dump.Stdout = &want
				if err := dump.Run(); err != nil {
					t.Fatal(err)
				}
				if got := narOf(t, s, p); !bytes.Equal(got, want.Bytes()) {
					t.Errorf("%s: %d bytes, want %d", full, len(got), want.Len())
				}
				info, err := store.PathInfoOf(t.Context(), s, p)
				if err != nil || len(info.Signatures) != 1 {
					t.Errorf("%s: %+v, %v", full, info, err)
				}
			}
		})
	}
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}

// newKey makes a key pair with stock Nix: the file of the secret key, and the key.
func newKey(t *testing.T, nix *testenv.NixEnv) (file string, key trust.SecretKey) {
	t.Helper()
	file = nix.WriteFile(t, "secret", nix.Run(t, "nix", "key", "generate-secret", "--key-name", "test-1"))
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if key, err = trust.ParseSecretKey(string(text)); err != nil {
		t.Fatal(err)
	}
	return file, key
}

// write fills a cache with a few objects through Import.
func write(t *testing.T, s *binarycache.Store) []storetest.Object {
	t.Helper()
	objects := storetest.Chain(t, s.Dir(), 5)
	objects = append(objects,
		storetest.Tree(t, s.Dir(), "tree", map[string]string{
			"bin/hello": "#!/bin/sh\n", "share/large": strings.Repeat("0123456789abcdef", 200_000), "empty": "",
		}, objects[4].Path()).Plain(t, s.Dir(), true),
		storetest.File(t, s.Dir(), "flat", "flat file"))
	imports := offers(objects)
	slices.Reverse(imports) // the worst order
	if err := s.Import(t.Context(), imports, store.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	return objects
}

// offers makes imports of objects.
func offers(objects []storetest.Object) []store.Import {
	imports := make([]store.Import, len(objects))
	for i, o := range objects {
		imports[i] = store.Import{Path: o.Path(), Offers: []store.Offer{offer(o)}}
	}
	return imports
}

// What is written here is read by stock Nix, signatures checked, and listings are
// those that it would have written.
func TestStockReadsOurCaches(t *testing.T) {
	for _, m := range compress.Methods {
		t.Run(string(m), func(t *testing.T) {
			nix := testenv.Nix(t, "2.34")
			_, key := newKey(t, nix)
			nix.Configure(t, "trusted-public-keys = "+key.Public().String())
			dir := filepath.Join(nix.Dir, "cache")
			objects, err := objstore.NewDirectory(dir)
			if err != nil {
				t.Fatal(err)
			}
			s := open(t, objects, func(o *binarycache.Options) {
				o.Compression, o.Keys, o.WriteListing = m, []trust.SecretKey{key}, true
			})
			made := write(t, s)
			var paths []string
			for _, o := range made {
				paths = append(paths, s.Dir().Print(o.Path()))
			}
			nix.Run(t, "nix", append([]string{"copy", "--from", "file://" + dir}, paths...)...)
			nix.Run(t, "nix-store", append([]string{"--verify-path"}, paths...)...)
			// The same again, by stock Nix: every small file is the same, byte for byte.
			theirs := filepath.Join(nix.Dir, "theirs")
			nix.Run(t, "nix", append([]string{"copy", "--to", "file://" + theirs + "?write-nar-listing=true&compression=" + string(m)}, paths...)...)
			compareCaches(t, dir, theirs, m == compress.None)
			nix.Run(t, "nix", append([]string{"store", "ls", "-lR", "--store", "file://" + dir}, paths[5])...)
		})
	}
}

// compareCaches compares the small files of two caches; with all, the names of NARs as
// well.
func compareCaches(t *testing.T, ours, theirs string, all bool) {
	t.Helper()
	names := func(dir, pattern string) (names []string) {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			names = append(names, strings.TrimPrefix(f, dir))
		}
		return names
	}
	patterns := []string{"*"}
	if all {
		patterns = append(patterns, "nar/*")
	}
	for _, pattern := range patterns {
		got, want := names(ours, pattern), names(theirs, pattern)
		// Stock Nix makes all directories beforehand, also when it reads.
		empty := func(s string) bool { return s == "/log" || s == "/realisations" }
		got, want = slices.DeleteFunc(got, empty), slices.DeleteFunc(want, empty)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", pattern, got, want)
		}
		for _, name := range want {
			if !strings.HasSuffix(name, ".ls") && name != "/nix-cache-info" && (!all || !strings.HasSuffix(name, ".narinfo")) {
				continue
			}
			a, errA := os.ReadFile(ours + name)
			b, errB := os.ReadFile(theirs + name)
			if errA != nil || errB != nil || !bytes.Equal(a, b) {
				t.Errorf("%s: %v %v\n%s\nstock Nix writes\n%s", name, errA, errB, a, b)
			}
		}
	}
}

// serve serves a directory over HTTP, uploads included.
func serve(t *testing.T, objects objstore.Store) *url.URL {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		if r.Method == http.MethodPut {
			if err := objects.Put(r.Context(), name, r.Body, objstore.PutOptions{Size: r.ContentLength}); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
			return
		}
		body, info, err := objects.Get(r.Context(), name, objstore.GetOptions{})
		if err != nil {
			http.NotFound(w, r)
			return
		}
		defer body.Close()
		w.Header().Set("Content-Length", fmt.Sprint(info.Size))
		if r.Method != http.MethodHead {
			io.Copy(w, body)
		}
	}))
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// overHTTP opens a cache on a web server.
func overHTTP(t *testing.T, u *url.URL, change func(*binarycache.Options)) *binarycache.Store {
	t.Helper()
	client := filetransfer.New(filetransfer.Options{Connections: 8})
	t.Cleanup(client.CloseIdle)
	objects, err := objhttp.New(u, client)
	if err != nil {
		t.Fatal(err)
	}
	return open(t, objects, func(o *binarycache.Options) {
		o.URI, o.Existing = u.String(), true
		if change != nil {
			change(o)
		}
	})
}

// A cache on a web server, written and read by both.
func TestHTTPWithStock(t *testing.T) {
	nix := testenv.Nix(t, "2.34")
	paths := stockObjects(t, nix)
	u := serve(t, directory(t))
	nix.Run(t, "nix", append([]string{"copy", "--to", u.String() + "?compression=zstd"}, paths...)...)
	s := overHTTP(t, u, func(o *binarycache.Options) { o.Compression = compress.XZ })
	for _, full := range paths {
		p, err := s.Dir().Parse(full)
		if err != nil {
			t.Fatal(err)
		}
		narOf(t, s, p)
	}
	made := write(t, s)
	for _, o := range made {
		nix.Run(t, "nix", "copy", "--no-check-sigs", "--from", u.String(), s.Dir().Print(o.Path()))
	}
}

// A cache in a bucket, written and read by both.
func TestBucketWithStock(t *testing.T) {
	nix := testenv.Nix(t, "2.34")
	server := testenv.S3Server(t)
	server.Bucket(t, "cache")
	server.Publish(t, "cache") // Debian's Nix is built without AWS credentials
	for name, value := range server.Environ() {
		t.Setenv(name, value)
	}
	o := s3.Options{Bucket: "cache", Region: server.Region, Endpoint: server.Endpoint, Multipart: true, Threshold: s3.MinChunk}
	objects, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, objects, func(o *binarycache.Options) { o.Compression, o.InfoCompression = compress.Zstd, compress.Brotli })
	made := write(t, s)
	uri := fmt.Sprintf("s3://cache?endpoint=%s&region=%s", server.Endpoint, server.Region)
	for _, o := range made {
		nix.Run(t, "nix", "copy", "--no-check-sigs", "--from", uri, s.Dir().Print(o.Path()))
	}
	paths := stockObjects(t, nix)
	nix.Run(t, "nix", append([]string{"copy", "--to", uri + "&compression=xz&narinfo-compression=gzip"}, paths...)...)
	for _, full := range paths {
		p, err := s.Dir().Parse(full)
		if err != nil {
			t.Fatal(err)
		}
		narOf(t, s, p)
	}
	if got := allPaths(t, s); len(got) != len(made)+len(paths) {
		t.Errorf("%d paths in the bucket, want %d", len(got), len(made)+len(paths))
	}
}

// Stock Nix of all ages takes NARs that can be entered in the middle, and is not disturbed by the indexes beside
// them.
func TestStockReadsSeekableNARs(t *testing.T) {
	for _, version := range []string{"2.34", "2.26", "2.8"} {
		t.Run(version, func(t *testing.T) {
			nix := testenv.Nix(t, version)
			dir := filepath.Join(nix.Dir, "cache")
			objects, err := objstore.NewDirectory(dir)
			if err != nil {
				t.Fatal(err)
			}
			s := open(t, objects, func(o *binarycache.Options) { o.WriteIndex, o.Seekable, o.Compression = true, true, compress.Zstd })
			wrote := write(t, s)
			var paths []string
			for _, o := range wrote {
				paths = append(paths, s.Dir().Print(o.Path()))
				if _, err := s.NarIndex(t.Context(), o.Path()); err != nil {
					t.Error(err)
				}
			}
			nix.Run(t, "nix", append([]string{"--extra-experimental-features", "nix-command", "copy", "--no-check-sigs", "--from", "file://" + dir}, paths...)...)
			for _, o := range wrote {
				var got bytes.Buffer
				dump := nix.Command(t.Context(), "nix-store", "--dump", s.Dir().Print(o.Path()))
				dump.Stdout = &got
				if err := dump.Run(); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got.Bytes(), o.NAR) {
					t.Errorf("%s is another one", o.Path())
				}
			}
		})
	}
}
