package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// run runs the built binary in a place, which must succeed.
func (p *place) run(args ...string) (stdout, stderr string) {
	p.t.Helper()
	stdout, stderr, err := p.try(nil, args...)
	if err != nil {
		p.t.Fatalf("strata %q: %v\n%s%s", args, err, stdout, stderr)
	}
	return strings.TrimSpace(stdout), stderr
}

func (p *place) try(env map[string]string, args ...string) (stdout, stderr string, err error) {
	cmd := p.command(args...)
	for _, name := range slices.Sorted(maps.Keys(env)) {
		cmd.Env = append(cmd.Env, name+"="+env[name])
	}
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// chain adds n text objects, each of which refers to the one before, and gives
// their paths.
func (p *place) chain(n int) (paths []string) {
	p.t.Helper()
	for i := range n {
		file := filepath.Join(p.dir, fmt.Sprintf("object-%d", i))
		if err := os.WriteFile(file, []byte(strings.Repeat(file+"\n", 100*i+1)), 0o644); err != nil {
			p.t.Fatal(err)
		}
		args := []string{"add", "--mode", "text", file}
		if i > 0 {
			args = append(args, "--reference", paths[i-1])
		}
		path, _ := p.run(args...)
		paths = append(paths, path)
	}
	return paths
}

// webDisk is a web server that keeps what is put there, for those who know the
// password.
type webDisk struct {
	mu    sync.Mutex
	files map[string][]byte
	fail  func(r *http.Request) bool // what to answer with 404
}

// ServeHTTP answers.
func (d *webDisk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if user, password, _ := r.BasicAuth(); user != "me" || password != "s3cr3t" {
		w.Header().Set("WWW-Authenticate", "Basic")
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.Method == http.MethodPut {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		d.files[r.URL.Path] = body
		w.WriteHeader(http.StatusCreated)
		return
	}
	body, ok := d.files[r.URL.Path]
	if !ok || d.fail != nil && d.fail(r) {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(body)
}

func TestACacheOnAWebServer(t *testing.T) {
	p := newPlace(t)
	paths := p.chain(5)
	last := paths[len(paths)-1]
	public, _ := p.run("key", "generate", "--output", filepath.Join(p.dir, "secret"), "web-1")
	disk := &webDisk{files: map[string][]byte{}}
	server := httptest.NewServer(disk)
	defer server.Close()
	uri := strings.Replace(server.URL, "://", "://me:s3cr3t@", 1) + "/cache"

	// Up.
	stdout, stderr := p.run("push", "--key-file", "secret", "--compression", "zstd", uri, last)
	if lines := strings.Fields(stdout); len(lines) != len(paths) || !slices.Contains(lines, last) {
		t.Errorf("pushed %q", stdout)
	}
	if strings.Contains(stdout+stderr, "s3cr3t") {
		t.Errorf("the password shows:\n%s", stderr)
	}
	if len(disk.files["/cache/nix-cache-info"]) == 0 {
		t.Errorf("there are %q", slices.Sorted(maps.Keys(disk.files)))
	}
	if _, stderr := p.run("push", uri, last); !strings.Contains(stderr, "uploading 0 paths (0 B), 5 are already there") {
		t.Errorf("again: %s", stderr)
	}
	// A cache that has lost something gets it again, whatever it said before.
	disk.mu.Lock()
	delete(disk.files, "/cache/"+filepath.Base(paths[1])[:32]+".narinfo")
	disk.mu.Unlock()
	if stdout, stderr := p.run("push", "--key-file", "secret", "--compression", "zstd", uri, last); stdout != paths[1] {
		t.Errorf("what was lost: %q: %s", stdout, stderr)
	}
	p.run("verify-sigs", "--store", uri, "--key", public, "--sigs-needed", "1", "--closure", last)

	// Down, with one NAR that cannot be had.
	narinfo := string(disk.files["/cache/"+filepath.Base(paths[3])[:32]+".narinfo"])
	_, rest, _ := strings.Cut(narinfo, "\nURL: ")
	lost, _, _ := strings.Cut(rest, "\n")
	disk.mu.Lock()
	disk.fail = func(r *http.Request) bool { return r.URL.Path == "/cache/"+lost }
	disk.mu.Unlock()
	other := "local?root=" + filepath.Join(p.dir, "other")
	get := []string{"copy", "--from", uri, "--to", other, "--closure", last, "--option", "trusted-public-keys", public}
	_, stderr, err := p.try(nil, get...)
	if err == nil || !strings.Contains(stderr, paths[3]) || strings.Contains(stderr, "s3cr3t") {
		t.Errorf("%v: %s", err, stderr)
	}
	disk.mu.Lock()
	disk.fail = nil
	disk.mu.Unlock()
	if _, stderr := p.run(get...); !strings.Contains(stderr, "copying 2 paths") || !strings.Contains(stderr, "3 are already there") {
		t.Errorf("the rest: %s", stderr)
	}
	if got, _ := p.run("cat", "--store", other, last); !strings.HasPrefix(got, p.dir) {
		t.Errorf("%q", got)
	}

	// Who does not know the password, and who asks nobody.
	ask := func(uri string) (string, error) {
		_, stderr, err := p.try(nil, "info", "--store", uri, "--option", "download-attempts", "1", "--option", "narinfo-cache-positive-ttl", "0",
			"--option", "narinfo-cache-meta-ttl", "0", last)
		return stderr, err
	}
	if stderr, err := ask(server.URL + "/cache"); err == nil || !strings.Contains(stderr, server.URL) {
		t.Errorf("%v: %s", err, stderr)
	}
	server.Close()
	if stderr, err := ask(uri); err == nil || !strings.Contains(stderr, "connection refused") {
		t.Errorf("%v: %s", err, stderr)
	}
	// What is known of the cache is known for longer than it lives.
	p.run("info", "--store", uri, last)
}

func TestACacheInABucket(t *testing.T) {
	s3 := testenv.S3Server(t)
	s3.Bucket(t, "cache")
	p := newPlace(t)
	paths := p.chain(3)
	uri := "s3://cache/below?region=" + s3.Region + "&endpoint=" + s3.Endpoint
	must := func(args ...string) (string, string) {
		t.Helper()
		stdout, stderr, err := p.try(s3.Environ(), args...)
		if err != nil {
			t.Fatalf("strata %q: %v\n%s%s", args, err, stdout, stderr)
		}
		return stdout, stderr
	}
	if stdout, _ := must("push", uri, paths[2]); strings.Count(stdout, "\n") != 3 {
		t.Errorf("pushed %q", stdout)
	}
	if _, stderr := must("push", uri+"&multipart-upload=true", paths[2]); !strings.Contains(stderr, "3 are already there") {
		t.Errorf("again: %s", stderr)
	}
	other := "local?root=" + filepath.Join(p.dir, "other")
	if _, stderr := must("copy", "--from", uri, "--to", other, "--no-check-sigs", "--all"); !strings.Contains(stderr, "copying 3 paths") {
		t.Errorf("all of them: %s", stderr)
	}
	if got, _ := must("cat", "--store", uri, paths[0]); !strings.HasPrefix(got, p.dir) {
		t.Errorf("%q", got)
	}
	for wrong, says := range map[string]string{
		uri + "&regoin=x":             "did you mean 'region'",
		uri + "&addressing-style=odd": "addressing",
		uri + "&multipart-upload=x":   "neither true nor false",
	} {
		if _, stderr, err := p.try(s3.Environ(), "info", "--store", wrong, paths[0]); err == nil || !strings.Contains(stderr, says) {
			t.Errorf("%s: %v: %s", wrong, err, stderr)
		}
	}
}

// Many objects come at once from a store that we serve ourselves, as a store and
// as a substituter.
func TestFromAServedStore(t *testing.T) {
	p := newPlace(t)
	paths := p.chain(30)
	last := paths[len(paths)-1]
	public, _ := p.run("key", "generate", "--output", filepath.Join(p.dir, "secret"), "served-1")
	s := serve(t, p.command("serve", "--listen", "127.0.0.1:0", "--key-file", "secret"))
	other := "local?root=" + filepath.Join(p.dir, "other")
	_, stderr := p.run("copy", "--from", s.url, "--to", other, "--closure", last, "--jobs", "8", "--option", "trusted-public-keys", public)
	if !strings.Contains(stderr, "copying 30 paths") {
		t.Errorf("%s", stderr)
	}
	if out, _ := p.run("info", "--store", other, "--all", "-s"); strings.Count(out, "\n") != 29 {
		t.Errorf("%s", out)
	}
	// Nobody else's word is taken for it.
	third := "local?root=" + filepath.Join(p.dir, "third")
	if _, stderr, err := p.try(nil, "copy", "--from", s.url, "--to", third, last, "--closure"); err != nil {
		t.Errorf("content-addressed objects need no key: %v: %s", err, stderr)
	}
	if out, _ := p.run("ls", "--store", s.url, "--json", last); !strings.Contains(out, `"type":"regular"`) {
		t.Errorf("%s", out)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}
