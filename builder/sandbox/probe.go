package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/strata-nix/strata/internal/userns"
)

// Abilities are what this machine can do for builds.
type Abilities struct {
	// Isolation is nil if builders can be isolated, or an [*UnavailableError].
	Isolation error
	// Cgroups is nil if builds can have control groups of their own.
	Cgroups error
	// Landlock tells whether builders with the network are kept from each other's
	// abstract sockets.
	Landlock bool
	// Bwrap is the path of bubblewrap.
	Bwrap string
}

// nobody is who tries things for root: builders are ordinary users.
const nobody = 65534

// Probe finds out by trying, which takes some milliseconds.
func Probe(ctx context.Context) Abilities {
	a := Abilities{Landlock: hasScopes()}
	var missing []Missing
	bwrap, err := findBwrap()
	if err != nil {
		missing = append(missing, noBwrap(err))
	}
	a.Bwrap = bwrap
	if m := tryNamespaces(ctx); m != nil {
		missing = append(missing, *m)
	}
	if len(missing) == 0 {
		if m := trySandbox(ctx); m != nil {
			missing = append(missing, *m)
		}
	}
	if len(missing) > 0 {
		a.Isolation = &UnavailableError{missing}
	}
	a.Cgroups = tryCgroup(ctx)
	return a
}

func noBwrap(err error) Missing {
	return Missing{"bubblewrap", err.Error(), "install the package bubblewrap, or have bwrap in the PATH of this program"}
}

// tryNamespaces makes the namespaces that an ordinary user makes for a sandbox.
func tryNamespaces(ctx context.Context) *Missing {
	out, err := runNamespaces(ctx, canBeNobody())
	var exit *exec.ExitError
	switch {
	case err == nil && len(out) == 0:
		return nil
	case err != nil && !errors.As(err, &exit):
		return &Missing{"the sandbox's own program", err.Error(), "its file must be executable by the build users"}
	}
	reason := strings.TrimSpace(string(out))
	if reason == "" {
		reason = err.Error()
	}
	return &Missing{"user namespaces", reason, "allow them to ordinary users, or set sandbox = false"}
}

// canBeNobody tells whether this program may become an ordinary user: it is root,
// and the root of more than itself if that is in a user namespace.
func canBeNobody() bool {
	if os.Geteuid() != 0 {
		return false
	}
	for _, file := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		text, err := os.ReadFile(file)
		if err != nil || !isMapped(string(text), nobody) {
			return false
		}
	}
	text, err := os.ReadFile("/proc/self/setgroups")
	return err == nil && strings.TrimSpace(string(text)) == "allow"
}

// isMapped finds an id in an id map: lines of first id, first id outside, and count.
func isMapped(idMap string, id uint64) bool {
	for line := range strings.Lines(idMap) {
		var first, outside, count uint64
		if n, err := fmt.Sscan(line, &first, &outside, &count); n == 3 && err == nil && first <= id && id-first < count {
			return true
		}
	}
	return false
}

func runNamespaces(ctx context.Context, asNobody bool) ([]byte, error) {
	cmd := exec.CommandContext(ctx, stageProgram())
	cmd.Args, cmd.Dir, cmd.Env = []string{namespacesName}, "/", stageEnv
	if asNobody {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd.Output()
}

// namespaces is the other side of tryNamespaces.
func namespaces() {
	if err := userns.Available(); err != nil {
		fmt.Println(err)
	}
}

// trySandbox puts a sandbox together and runs nothing in it.
func trySandbox(ctx context.Context) *Missing {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return &Missing{os.DevNull, err.Error(), ""}
	}
	defer null.Close()
	const nothing = "/nothing"
	s := Spec{Path: nothing, Args: []string{nothing}, Dir: "/", Output: null, KeepGroups: true, Isolation: new(Isolation)}
	if canBeNobody() {
		s.User = &User{UID: nobody, GID: nobody, Count: 1}
	}
	p, err := s.startKeeper()
	if err == nil {
		defer context.AfterFunc(ctx, p.Kill)()
		<-p.ended
		err = p.startErr
	}
	var exec *ExecError
	if err == nil || errors.As(err, &exec) { // it came to where the builder is missing
		return nil
	}
	m := Missing{"a sandbox", err.Error(), ""}
	switch text := err.Error(); {
	case strings.Contains(text, "mount proc"):
		m.Part = "a /proc of its own"
		m.Advice = "in a container parts of /proc are covered, and then the kernel forbids another: " +
			"run it with --security-opt systempaths=unconfined, or as one that may"
	case errors.Is(err, syscall.ENOSYS):
		m.Part, m.Advice = "the mount interface of Linux 5.12", "a newer kernel, or a container that does not forbid it"
	case strings.Contains(text, "loopback"), strings.Contains(text, "uid map"):
		m.Advice = "a security module such as AppArmor may forbid it to bwrap: it needs a profile that allows userns"
	}
	return &m
}

func tryCgroup(ctx context.Context) error {
	c, err := NewCgroup(ctx, "", nil)
	if err != nil {
		return err
	}
	return c.Close()
}

// Weaker says in a sentence, for a warning, what a build lacks that runs without
// isolation, as the user or, if that is nil, as who runs this program.
func (a Abilities) Weaker(user *User) string {
	s := "without a sandbox the builder sees all files of the machine and its network"
	switch {
	case user != nil:
		return s + "; what it leaves running is found by its user"
	case a.Cgroups == nil:
		return s + ", may do what this program may, and is held together by its control group only if use-cgroups is set"
	}
	return s + ", may do what this program may, and can leave processes if it kills the one that keeps it"
}
