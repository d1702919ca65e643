package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// served is a binary cache that the built binary serves.
type served struct {
	*testenv.Process
	url string
}

var servedAt = regexp.MustCompile(`serving '.*' on (https?://\S+)`)

// serve starts a command that serves a cache at a port of its own, and returns
// when it listens.
func serve(t *testing.T, cmd *exec.Cmd) *served {
	t.Helper()
	pr, pw := io.Pipe()
	var said strings.Builder
	cmd.Stderr = pw
	s := &served{Process: testenv.Start(t, cmd)}
	go func() {
		<-s.Done()
		_ = pw.Close()
	}()
	lines := bufio.NewScanner(pr)
	for lines.Scan() {
		said.WriteString(lines.Text() + "\n")
		if m := servedAt.FindStringSubmatch(lines.Text()); m != nil {
			s.url = m[1]
			go func() { _, _ = io.Copy(io.Discard, pr) }()
			return s
		}
	}
	t.Fatalf("it does not serve:\n%s", said.String())
	return nil
}

func fetch(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v: %s", url, resp.Status, err, body)
	}
	return string(body)
}

// keyPair makes a key with the built binary.
func keyPair(t *testing.T, nix *testenv.NixEnv, name string) (file, public string) {
	t.Helper()
	file = filepath.Join(nix.Dir, name)
	out, err := exec.CommandContext(t.Context(), testenv.Strata(t), "key", "generate", "--output", file, name).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return file, strings.TrimSpace(string(out))
}

// Every release of stock Nix gets closures from a store that we serve, whatever
// the compression, and what arrives is what was served.
func TestStockNixSubstitutesFromAServedStore(t *testing.T) {
	testenv.Long(t)
	source := testenv.Nix(t, "2.34").WithCorpus(t)
	secret, public := keyPair(t, source, "cache-1")
	all := strings.Fields(source.Run(t, "nix", "path-info", "--all"))
	var small []string
	for _, p := range all {
		if regexp.MustCompile(`-(debianutils-5\.7|sed|bash-5\.2\.15)`).MatchString(p) {
			small = append(small, p)
		}
	}
	want := source.Run(t, "sh", "-c", hashes, "sh", strings.Join(small, " "))
	for _, c := range []struct{ version, compression string }{
		{"2.34", "none"}, {"2.34", "br"}, {"2.26", "zstd"}, {"2.8", "none"}, {"2.8", "gzip"},
	} {
		t.Run(c.version+" "+c.compression, func(t *testing.T) {
			s := serve(t, source.StrataCommand(context.Background(), t, "serve", "--store", "local", "--listen", "127.0.0.1:0",
				"--key-file", secret, "--compression", c.compression, "--encode"))
			client := testenv.Nix(t, c.version)
			client.Configure(t, "trusted-public-keys = "+public, "substituters = "+s.url)
			// By a command that copies, and by a build that substitutes.
			client.Run(t, "nix", append([]string{"copy", "--from", s.url}, small[:1]...)...)
			client.Run(t, "nix-store", append([]string{"--realise"}, small...)...)
			if got := client.Run(t, "sh", "-c", hashes, "sh", strings.Join(small, " ")); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			client.Run(t, "nix-store", "--verify", "--check-contents")
			if m := fetch(t, s.url+"/metrics"); !strings.Contains(m, `strata_cache_requests_total{kind="nar",status="200"}`) ||
				strings.Contains(m, `status="5`) {
				t.Errorf("metrics:\n%s", m)
			}
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
	for _, version := range []string{"2.34", "2.8"} {
		t.Run("through our daemon, by "+version, func(t *testing.T) {
			s := serve(t, source.StrataCommand(context.Background(), t, "serve", "--store", "local", "--listen", "127.0.0.1:0", "--key-file", secret))
			client := testenv.Nix(t, version)
			socket := filepath.Join(client.Dir, "strata.sock")
			daemon := client.With("HOME", client.Dir).StrataCommand(context.Background(), t, "daemon", "--store", "local", "--socket", socket,
				"--option", "substituters", s.url, "--option", "trusted-public-keys", public)
			testenv.Start(t, daemon).WaitSocket(socket)
			client = client.WithRemote(socket)
			client.Run(t, "nix-store", append([]string{"--realise"}, small...)...)
			if got := client.Run(t, "sh", "-c", hashes, "sh", strings.Join(small, " ")); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			client.Run(t, "nix-store", "--verify", "--check-contents")
		})
	}
	t.Run("without the key", func(t *testing.T) {
		s := serve(t, source.StrataCommand(context.Background(), t, "serve", "--store", "local", "--listen", "127.0.0.1:0", "--no-sign"))
		client := testenv.Nix(t, "2.34")
		client.Configure(t, "trusted-public-keys = "+public, "substituters = "+s.url)
		if said := client.RunFails(t, "nix", "copy", "--from", s.url, small[0]); !strings.Contains(said, "signature") {
			t.Errorf("%s", said)
		}
	})
}

// hashes prints what a store knows of closures.
const hashes = `for p in $(nix-store -qR $1 | sort); do echo $p $(nix-store -q --hash $p) $(nix-store -q --size $p) $(nix-store -q --references $p | sort); done`

// A layered store is served as one, also when it went away and came back.
func TestServingALayeredStore(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	nix := testenv.Nix(t, "2.34")
	r := newRig(t, nix.Dir)
	below := r.run("add", "--store", "local?root="+r.path("base"), r.write("below", "a lower's"))
	p := r.up("--lower", r.path("base"))
	above := nix.Run(t, "nix-store", "--add", nix.WriteFile(t, "above", "the upper's"))
	s := serve(t, r.command("serve", "--store", "unix://"+r.path("nix/var/nix/daemon-socket/socket")+"?root="+r.dir, "--listen", "127.0.0.1:0"))
	client := testenv.Nix(t, "2.34")
	client.Configure(t, "substituters = "+s.url)
	client.Run(t, "nix", "copy", "--from", s.url, above, below)
	if got := client.Run(t, "cat", below, above); got != "a lower'sthe upper's" {
		t.Errorf("got %q", got)
	}

	narinfo := s.url + "/" + filepath.Base(below)[:32] + ".narinfo"
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(narinfo)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("without the store: %s", resp.Status)
	}
	p = r.up("--lower", r.path("base"))
	fetch(t, narinfo)
	fetch(t, s.url+"/healthz")
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

func TestServingSocketsOfSystemd(t *testing.T) {
	p := newPlace(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := p.command()
	cmd.Path = testenv.Tool(t, "sh")
	cmd.Args = []string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" serve`, p.bin}
	cmd.ExtraFiles = []*os.File{file}
	s := serve(t, cmd)
	if s.url != "http://"+l.Addr().String() {
		t.Errorf("it says that it serves %s", s.url)
	}
	if got := fetch(t, s.url+"/nix-cache-info"); !strings.HasPrefix(got, "StoreDir: /nix/store\n") {
		t.Errorf("%q", got)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}
