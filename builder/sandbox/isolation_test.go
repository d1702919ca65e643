package sandbox_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/builder/sandbox"
	"github.com/strata-nix/strata/internal/testenv"
)

// TestOrdinaryUser runs all that an ordinary user can do as one.
func TestOrdinaryUser(t *testing.T) {
	if !testenv.Unprivileged(t) {
		return
	}
	t.Run("Surroundings", TestSurroundings)
	t.Run("Privileges", TestNoPrivileges)
	t.Run("Network", TestNetwork)
	t.Run("NothingSurvives", TestNothingSurvives)
	t.Run("Show", TestShow)
	t.Run("Probe", TestProbe)
}

// A builder sees just what it is told to see.
func TestSurroundings(t *testing.T) {
	inModes(t, func(t *testing.T, m mode) {
		s := m.spec(t, `
			echo "name $0"
			echo "directory $(pwd)"
			echo "umask $(umask)"
			echo "core $(ulimit -c)"
			echo "session $(cut -d' ' -f6 /proc/$$/stat) of $$"
			echo "input $(cat)"
			echo "output $(readlink /proc/$$/fd/1 | cut -d: -f1)"
			echo "files $(ls /proc/self/fd | tr '\n' ' ')" # 3 is the directory
			echo "caps $(grep -c '^Cap\(Prm\|Eff\|Inh\|Amb\):.*[1-9a-f]' /proc/$$/status)"
			echo "ignored $(grep SigIgn /proc/$$/status)"
			echo "nnp $(grep NoNewPrivs /proc/$$/status)"
			(exec 3</dev/tty) 2>/dev/null && echo has a terminal
			env | grep -v '^PWD='
		`)
		s.Args[0] = "the-name"
		s.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LD_NOTHING=a b", "EMPTY=", "BYTES=\xff\x01"}
		out := run(t, s)
		pid := "1"
		if !m.isolated {
			_, pid, _ = strings.Cut(firstLine(out, "session"), " of ")
		}
		caps := "0"
		if !m.isolated && os.Geteuid() == 0 && m.user == nil {
			caps = "2" // root as root
		}
		want := []string{
			"name the-name", "directory " + s.Dir, "umask 0022", "core 0", "session " + pid + " of " + pid, "input ",
			"output pipe", "files 0 1 2 3 ", "caps " + caps, "ignored SigIgn:\t0000000000000000", "nnp NoNewPrivs:\t1",
			"BYTES=\xff\x01", "EMPTY=", "LD_NOTHING=a b", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		}
		got := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("the builder sees\n%q, want\n%q", got, want)
		}
	})
}

func firstLine(out, prefix string) string {
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, prefix) {
			return strings.TrimSuffix(line, "\n")
		}
	}
	return ""
}

// Nothing of the machine is to be seen but what is shown.
func TestFilesOfTheMachine(t *testing.T) {
	in := world(t)
	secret := filepath.Join(testenv.Scratch(t), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	in.Mounts = append(in.Mounts,
		sandbox.Mount{Source: filepath.Dir(secret), Target: "/shown/ro"},
		sandbox.Mount{Source: "/proc/nothing", Target: "/shown/missing", Optional: true},
		sandbox.Mount{Kind: sandbox.Symlink, Source: "ro/secret", Target: "/shown/link"},
		sandbox.Mount{Kind: sandbox.Tmpfs, Target: "/memory", Size: "1m"},
		sandbox.Mount{Kind: sandbox.Dir, Target: "/empty", Mode: 0o500},
	)
	in.DevShmSize = "2m"
	out := run(t, shell(in, `
		ls -A / /shown /dev | tr '\n' ' '; echo
		test ! -e `+secret+`
		cat /shown/link; echo
		! touch /x /etc/x /dev/x /shown/ro/x /usr/x /shown/ro/secret 2>/dev/null
		for f in /x /etc/x /dev/x /shown/ro/x /usr/x; do test ! -e $f; done
		! (echo x >/shown/ro/secret) 2>/dev/null
		touch /build/x /tmp/x /nix/store/x /memory/x /dev/shm/x
		stat -c %a /empty /memory /dev/shm
		dd if=/dev/zero of=/memory/big bs=1M count=2 2>/dev/null || echo memory is bounded
		hostname; cat /proc/sys/kernel/domainname
		test "$(ls /proc | grep -c '^[0-9]')" -le 4
		echo x >/dev/null; head -c1 /dev/urandom >/dev/null
		id -u; id -g; id -G
		grep -c '/dev/shm .*size=2048k' /proc/mounts
	`))
	roots := []string{"bin", "build", "dev", "empty", "etc", "lib", "memory", "nix", "proc", "shown", "tmp", "usr"}
	for _, d := range []string{"/lib32", "/lib64", "/sbin"} {
		if _, err := os.Lstat(d); err == nil {
			roots = append(roots, d[1:])
		}
	}
	slices.Sort(roots)
	want := "/: " + strings.Join(roots, " ") + "  /dev: fd full null ptmx pts random shm stderr stdin stdout tty urandom zero  " +
		"/shown: link ro \nsecret\n500\n1777\n1777\nmemory is bounded\nlocalhost\n(none)\n1000\n100\n100\n1\n"
	if out != want {
		t.Errorf("got\n%s, want\n%s", out, want)
	}
}

func TestNoPrivileges(t *testing.T) {
	inModes(t, func(t *testing.T, m mode) {
		s := m.spec(t, "")
		if !m.isolated {
			s.Dir = openScratch(t)
		}
		run(t, program(t, s, "privileges"))
	})
}

func TestNetwork(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	abstract, err := net.Listen("unix", fmt.Sprintf("@strata-sandbox-test-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	inModes(t, func(t *testing.T, m mode) {
		if !m.isolated {
			return
		}
		s := m.spec(t, "")
		run(t, program(t, s, "loopback"))
		fails := func(s sandbox.Spec, network, address string) {
			t.Helper()
			if exit, out := start(t, program(t, s, "dial", network, address)).end(t); exit.Status == 0 {
				t.Errorf("dial %s %s: %v\n%s", network, address, exit, out)
			}
		}
		fails(s, "tcp", l.Addr().String())
		fails(s, "unix", abstract.Addr().String())
		s.Isolation.Network = true
		run(t, program(t, s, "dial", "tcp", l.Addr().String()))
		if sandbox.Probe(t.Context()).Landlock {
			fails(s, "unix", abstract.Addr().String())
		}
	})
}

// Builders for 32-bit platforms see a 32-bit machine.
func TestPlatform(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		testenv.Skip(t, "needs x86_64")
	}
	inModes(t, func(t *testing.T, m mode) {
		for platform, want := range map[string]string{"i686-linux": "i686", "x86_64-linux": "x86_64"} {
			s := m.spec(t, "uname -m; cat /proc/self/personality")
			s.Platform = platform
			out := strings.Fields(run(t, s))
			if out[0] != want || out[1][3] != '4' {
				t.Errorf("%s: machine %s, personality %s", platform, out[0], out[1])
			}
			s = m.spec(t, "uname -r")
			s.Linux26 = true
			if out := run(t, s); !strings.HasPrefix(out, "2.6.") {
				t.Errorf("a Linux 2.6 is %s", out)
			}
		}
	})
}

// What cannot be executed is the builder's fault, and what cannot be set up is not.
func TestStartErrors(t *testing.T) {
	inModes(t, func(t *testing.T, m mode) {
		for path, want := range map[string]error{
			"/nothing": os.ErrNotExist, "/etc/passwd": os.ErrPermission, "/dev": os.ErrPermission, "relative": os.ErrNotExist,
		} {
			s := m.spec(t, "")
			s.Path = path
			err := startError(t, s)
			if exec, ok := errors.AsType[*sandbox.ExecError](err); !ok || exec.Path != path || !errors.Is(err, want) {
				t.Errorf("%s: %v", path, err)
			}
		}
		s := m.spec(t, "")
		s.Dir = "/nothing"
		if err := startError(t, s); !isSetup(err, "/nothing") {
			t.Errorf("no working directory: %v", err)
		}
		if !m.isolated {
			return
		}
		for _, bad := range []sandbox.Mount{
			{Source: "/proc/nothing", Target: "/x"},
			{Source: "/usr", Target: "/usr/no/place"},
		} {
			s := m.spec(t, "")
			s.Isolation.Mounts = append(s.Isolation.Mounts, bad)
			if err := startError(t, s); !isSetup(err, bad.Target) {
				t.Errorf("%v at %s: %v", bad, bad.Target, err)
			}
		}
		for _, bad := range []sandbox.Mount{
			{Source: "/usr", Target: "x"}, {Source: "/usr", Target: "/"}, {Source: "/usr", Target: "/x/../y"},
			{Source: "/usr", Target: "/x\x00y"}, {Source: "usr", Target: "/x"}, {Kind: sandbox.Tmpfs, Target: "/x", Size: "1m,mode=0"},
		} {
			s := m.spec(t, "")
			s.Isolation.Mounts = append(s.Isolation.Mounts, bad)
			startError(t, s)
		}
	})
}

func isSetup(err error, names string) bool {
	setup, ok := errors.AsType[*sandbox.SetupError](err)
	return ok && strings.Contains(setup.Step, names)
}

// Paths can be added while the builder runs.
func TestShow(t *testing.T) {
	inModes(t, func(t *testing.T, m mode) {
		if !m.isolated {
			return
		}
		source := testenv.Scratch(t)
		if err := os.WriteFile(filepath.Join(source, "file"), []byte("shown\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		s := m.spec(t, `
			mkdir /nix/store/taken; ln -s /build /nix/store/evil
			mkfifo wait; echo ready; cat wait
			cat /nix/store/dir/file /nix/store/file
			! touch /nix/store/dir/x 2>/dev/null
		`)
		build := outside(s.Isolation, "/build")
		p := start(t, s)
		p.line(t)
		for target, ok := range map[string]bool{
			"/nix/store/dir": true, "/nix/store/evil": false, "/usr/x": false, "/nix/store/../x": false,
		} {
			if err := p.Show(t.Context(), source, target); (err == nil) != ok {
				t.Errorf("show %s: %v", target, err)
			}
		}
		if err := p.Show(t.Context(), filepath.Join(source, "file"), "/nix/store/file"); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(build, "wait"), []byte("go\n"), 0); err != nil {
			t.Fatal(err)
		}
		if exit, out := p.end(t); exit.Status != 0 || out != "go\nshown\nshown\n" {
			t.Errorf("%v:\n%s", exit, out)
		}
		if err := p.Show(t.Context(), source, "/nix/store/late"); err == nil {
			t.Error("something was shown to a builder that has ended")
		}
	})
}

func TestManyInputs(t *testing.T) {
	in := world(t)
	dir := testenv.Scratch(t)
	const n = 3000
	for i := range n {
		name := fmt.Sprintf("input-%04d", i)
		source := filepath.Join(dir, name)
		if err := os.WriteFile(source, []byte(name), 0o444); err != nil {
			t.Fatal(err)
		}
		in.Mounts = append(in.Mounts, sandbox.Mount{Source: source, Target: "/nix/store/" + name})
	}
	out := run(t, shell(in, "cat /nix/store/input-* | wc -c; cat /nix/store/input-2999"))
	if want := fmt.Sprintf("%d\ninput-2999", n*len("input-0000")); out != want {
		t.Errorf("got %q, want %q", out, want)
	}
}
