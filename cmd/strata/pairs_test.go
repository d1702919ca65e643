package main

import (
	"encoding/json"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// meeting is a place with stores of all kinds, and the variables that the commands
// need which use them.
type meeting struct {
	*place
	env  map[string]string
	uris map[string]string // of an empty store of each kind, by its name
}

// corpusRoot puts the objects of the corpus whose names have one of the parts into a
// store, and gives its URI and their paths.
func (m *meeting) corpusRoot(parts ...string) (uri string, paths []string) {
	m.t.Helper()
	dir, registration := testenv.Corpus(m.t)
	text, err := os.ReadFile(registration)
	if err != nil {
		m.t.Fatal(err)
	}
	uri = "local?root=" + dir + "&state=" + filepath.Join(m.dir, "corpus-state")
	cmd := m.command("load-db", "--store", uri)
	cmd.Stdin = strings.NewReader(string(text))
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("%v: %s", err, out)
	}
	out, _ := m.run("info", "--store", uri, "--all", "-s")
	for line := range strings.Lines(out) {
		path, _, _ := strings.Cut(line, " ")
		path, _, _ = strings.Cut(path, "\t")
		if slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(path, part) }) {
			paths = append(paths, path)
		}
	}
	out, _ = m.run(append([]string{"closure", "--store", uri}, paths...)...)
	return uri, strings.Fields(out)
}

// must runs the built binary with the variables.
func (m *meeting) must(args ...string) string {
	m.t.Helper()
	stdout, stderr, err := m.try(m.env, args...)
	if err != nil {
		m.t.Fatalf("strata %q: %v\n%s%s", args, err, stdout, stderr)
	}
	return stdout
}

// open makes an empty store of each kind.
func (m *meeting) open() {
	root := func(name string) string { return "local?root=" + filepath.Join(m.dir, name) }
	disk := httptest.NewServer(&webDisk{files: map[string][]byte{}})
	m.t.Cleanup(disk.Close)
	ours := filepath.Join(m.dir, "ours.sock")
	testenv.Start(m.t, m.command("daemon", "--store", root("daemon"), "--socket", ours, "--option", "trusted-users", "*")).WaitSocket(ours)
	stock := testenv.Nix(m.t, "2.34")
	stock.Configure(m.t, "trusted-users = *", "require-sigs = false")
	bin := filepath.Join(m.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Symlink(m.bin, filepath.Join(bin, "nix-daemon")); err != nil {
		m.t.Fatal(err)
	}
	s3 := testenv.S3Server(m.t)
	s3.Bucket(m.t, "cache")
	maps.Copy(m.env, s3.Environ())
	m.env["PATH"] = bin + ":" + os.Getenv("PATH")
	m.uris = map[string]string{
		"local":        root("local"),
		"file":         "file://" + filepath.Join(m.dir, "cache") + "?compression=none",
		"http":         strings.Replace(disk.URL, "://", "://me:s3cr3t@", 1) + "?compression=zstd",
		"s3":           "s3://cache?compression=gzip&region=" + s3.Region + "&endpoint=" + s3.Endpoint,
		"daemon":       "unix://" + ours,
		"stock daemon": "unix://" + stock.Daemon(m.t),
		"ssh":          "ssh-ng://localhost?remote-store=" + strings.ReplaceAll(root("ssh"), "?", "%3F"),
	}
}

// What is copied from a store of any kind to one of any other arrives as it was.
func TestEveryPairOfKindsOfStores(t *testing.T) {
	testenv.Long(t)
	m := &meeting{place: newPlace(t), env: map[string]string{}}
	source, paths := m.corpusRoot("-debianutils-5.7", "-hostname-3.25")
	list := filepath.Join(m.dir, "list")
	if err := os.WriteFile(list, []byte(strings.Join(paths, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	want := m.infos(source, paths)
	m.open()
	kinds := slices.Sorted(maps.Keys(m.uris))
	for _, kind := range kinds {
		m.must("copy", "--quiet", "--from", source, "--to", m.uris[kind], "--no-check-sigs", "--from-file", list)
		if got := m.infos(m.uris[kind], paths); got != want {
			t.Errorf("in %s:\n%s\nwant\n%s", kind, got, want)
		}
	}
	full := m.uris
	for _, from := range kinds {
		// A second set of stores, empty again for each source.
		other := &meeting{place: newPlace(t), env: maps.Clone(m.env)}
		other.open()
		for _, to := range kinds {
			other.must("copy", "--quiet", "--from", full[from], "--to", other.uris[to], "--no-check-sigs", "--from-file", list)
			if got := other.infos(other.uris[to], paths); got != want {
				t.Errorf("from %s to %s:\n%s\nwant\n%s", from, to, got, want)
			}
		}
		// The contents of the caches are looked at by whoever takes them.
		for _, to := range []string{"file", "http", "s3"} {
			back := "local?root=" + filepath.Join(other.dir, "back-"+to)
			other.must("copy", "--quiet", "--from", other.uris[to], "--to", back, "--no-check-sigs", "--from-file", list)
		}
	}
}

// infos are what a store knows of paths, but for what is its own business.
func (m *meeting) infos(uri string, paths []string) string {
	m.t.Helper()
	var infos map[string]map[string]any
	if err := json.Unmarshal([]byte(m.must(append([]string{"info", "--json", "--store", uri}, paths...)...)), &infos); err != nil {
		m.t.Fatal(err)
	}
	for path, info := range infos {
		if info == nil {
			m.t.Errorf("%s is not valid in %s", path, uri)
		}
		delete(info, "registrationTime")
		delete(info, "ultimate")
	}
	text, err := json.Marshal(infos)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(text)
}
