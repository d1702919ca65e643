package testenv

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestStockNixIsTheVersionAskedFor(t *testing.T) {
	EachNix(t, func(t *testing.T, nix *NixEnv) {
		words := strings.Fields(nix.Run(t, "nix", "--version"))
		if got := words[len(words)-1]; !strings.HasPrefix(got, nix.Version+".") {
			t.Errorf("it says %s, want %s", got, nix.Version)
		}
	})
}

func TestStoreInsideIsScratchOutside(t *testing.T) {
	EachNix(t, func(t *testing.T, nix *NixEnv) {
		path := nix.Run(t, "nix-store", "--add", nix.WriteFile(t, "hello", "hello\n"))
		base, ok := strings.CutPrefix(path, "/nix/store/")
		if !ok {
			t.Fatalf("added as %s", path)
		}
		got, err := os.ReadFile(filepath.Join(nix.Store(), base))
		if err != nil || string(got) != "hello\n" {
			t.Errorf("outside it holds %q, %v", got, err)
		}
		if hash := nix.Run(t, "nix-store", "--query", "--hash", path); !strings.HasPrefix(hash, "sha256:") {
			t.Errorf("a second command does not know it: %s", hash)
		}
	})
}

func TestClientReachesDaemonThroughScratch(t *testing.T) {
	EachNix(t, func(t *testing.T, nix *NixEnv) {
		path := nix.Run(t, "nix-store", "--add", nix.WriteFile(t, "hello", "hello\n"))
		client := nix.WithRemote(nix.Daemon(t))
		if got := client.Run(t, "nix-store", "--query", "--references", path); got != "" {
			t.Errorf("references of a file: %s", got)
		}
		second := client.Run(t, "nix-store", "--add", nix.WriteFile(t, "bye", "bye\n"))
		if got := nix.Run(t, "nix-store", "--query", "--size", second); got == "" {
			t.Errorf("what the daemon added is not in its database")
		}
	})
}

func TestTreeIsReadOnlyAndTheRestPrivate(t *testing.T) {
	nix := Nix(t, "2.34")
	if msg := nix.RunFails(t, "touch", "/usr/x"); !strings.Contains(msg, "Read-only") {
		t.Errorf("writing to the tree: %s", msg)
	}
	nix.Run(t, "sh", "-c", "touch /tmp/mine /root/mine")
	nix.RunFails(t, "ls", "/tmp/mine")
	if got := nix.Run(t, "pwd"); got != nix.Dir {
		t.Errorf("the working directory is %s, want %s", got, nix.Dir)
	}
}

func TestNothingOfTheOutsideEnvironmentGoesIn(t *testing.T) {
	t.Setenv("NIX_REMOTE", "unix:///elsewhere")
	nix := Nix(t, "2.34")
	for _, kv := range strings.Split(nix.Run(t, "env"), "\n") {
		name, _, _ := strings.Cut(kv, "=")
		if !slices.Contains([]string{"PATH", "HOME", "TMPDIR", "USER", "LC_ALL", "NIX_CONF_DIR"}, name) {
			t.Errorf("came along: %s", kv)
		}
	}
}

func TestMountsEndWithTheCommand(t *testing.T) {
	nix := Nix(t, "2.34")
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	p := Start(t, nix.Command(t.Context(), "sleep", "100"))
	nix.Run(t, "true")
	if err := p.Stop(); err == nil {
		t.Error("sleep survived SIGTERM")
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(after), nix.Dir) || strings.Count(string(after), "\n") > strings.Count(string(before), "\n") {
		t.Errorf("mounts were left:\n%s", after)
	}
}

func TestUserNamespacesWorkInside(t *testing.T) {
	UserNS(t)
	nix := Nix(t, "2.34")
	if got := nix.Run(t, "unshare", "--user", "--map-root-user", "id", "-u"); got != "0" {
		t.Errorf("uid %s", got)
	}
}

func TestBindShowsOutsideFile(t *testing.T) {
	nix := Nix(t, "2.34")
	file := filepath.Join(Scratch(t), "passwd")
	if err := os.WriteFile(file, []byte("alice:x:1234:1234::/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := nix.WithBind(file, "/etc/passwd").Run(t, "id", "-u", "alice"); got != "1234" {
		t.Errorf("uid of alice: %s", got)
	}
	if got := nix.WithBind(file, "/a/new/place").Run(t, "cat", "/a/new/place"); !strings.HasPrefix(got, "alice") {
		t.Errorf("content: %s", got)
	}
}

func TestCommandAsOrdinaryUser(t *testing.T) {
	nix := Nix(t, "2.34")
	alice := nix.WithUser(t, 1234)
	if got := alice.Run(t, "sh", "-c", "id -u; id -g; id -G; touch ~/x && echo writable"); got != "1234\n1234\n1234\nwritable" {
		t.Errorf("got %q", got)
	}
	alice.RunFails(t, "touch", filepath.Join(nix.Dir, "nix", "x"))
}

func TestFailedCommandShowsItsErrors(t *testing.T) {
	nix := Nix(t, "2.34")
	if msg := nix.RunFails(t, "nix-store", "--query", "--hash", "/nix/store/00000000000000000000000000000000-no"); !strings.Contains(msg, "not valid") {
		t.Errorf("stderr: %s", msg)
	}
	if msg := nix.RunFails(t, "no-such-program"); !strings.Contains(msg, "no-such-program") {
		t.Errorf("stderr: %s", msg)
	}
}

func TestUnknownNixVersion(t *testing.T) {
	if _, err := Tree(t.Context(), "1.0", false, nil); err == nil || !strings.Contains(err.Error(), "2.34") {
		t.Errorf("the error should name the known versions: %v", err)
	}
}
