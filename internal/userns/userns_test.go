package userns

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// TestMain lets the test binary be its own child: asked through the
// environment, it reports what it finds in the namespaces.
func TestMain(m *testing.M) {
	if os.Getenv("USERNS_TEST_CHILD") != "" {
		os.Exit(child())
	}
	os.Exit(m.Run())
}

func child() int {
	dir := os.Getenv("USERNS_TEST_CHILD")
	if os.Geteuid() != 0 || os.Getegid() != 0 {
		os.Stdout.WriteString("not root\n")
		return 1
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		os.Stdout.WriteString("mount: " + err.Error() + "\n")
		return 1
	}
	if err := os.WriteFile(filepath.Join(dir, "inside"), nil, 0o600); err != nil {
		os.Stdout.WriteString(err.Error() + "\n")
		return 1
	}
	b, _ := os.ReadFile("/proc/self/setgroups")
	os.Stdout.WriteString(strings.TrimSpace(string(b)) + " " + strconv.Itoa(OuterUID(0)))
	info, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(info)) {
		head, _, _ := strings.Cut(line, " - ")
		if strings.Contains(head, "shared:") || strings.Contains(head, "master:") {
			os.Stdout.WriteString("propagates: " + line)
			return 1
		}
	}
	return 0
}

func TestCommandIsRootInPrivateMounts(t *testing.T) {
	if err := Available(); err != nil {
		testenv.Skip(t, "needs user namespaces: "+err.Error())
	}
	dir := t.TempDir()
	cmd := Self(t.Context())
	cmd.Env = append(os.Environ(), "USERNS_TEST_CHILD="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got, want := string(out), "deny "+strconv.Itoa(os.Geteuid()); got != want {
		t.Errorf("setgroups and who root is outside: %q, want %q", got, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "inside")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the child's mount is visible outside: %v", err)
	}
}

func TestOuterUID(t *testing.T) {
	for _, tt := range []struct {
		text     string
		id, want int
	}{
		{"         0          0 4294967295\n", 7, 7},
		{"0 65534 1\n", 0, 65534},
		{"0 1000 1\n1 100000 65536\n", 5, 100004},
		{"0 1000 1\n1 100000 65536\n", 70000, 70000},
		{"", 3, 3},
		{"0 x 1\n", 0, 0},
		{"0 5\n", 0, 0},
	} {
		if got := outer(tt.text, tt.id); got != tt.want {
			t.Errorf("%q: %d is %d, want %d", tt.text, tt.id, got, tt.want)
		}
	}
}

func TestReasonsNameTheSwitchThatForbids(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		err   error
		want  string
	}{
		{"sysctl", map[string]string{"proc/sys/user/max_user_namespaces": "0\n"}, syscall.ENOSPC, "max_user_namespaces is 0"},
		{"debian", map[string]string{"proc/sys/kernel/unprivileged_userns_clone": "0\n"}, syscall.EPERM, "unprivileged_userns_clone"},
		{"ubuntu", map[string]string{"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}, syscall.EACCES, "AppArmor"},
		{"seccomp", map[string]string{"proc/self/status": "Name:\tx\nSeccomp:\t2\n"}, syscall.EPERM, "seccomp"},
		{"no seccomp", map[string]string{"proc/self/status": "Seccomp:\t0\n"}, syscall.EPERM, "chroot"},
		{"nesting", nil, syscall.EUSERS, "nesting"},
		{"kernel", nil, syscall.EINVAL, "CONFIG_USER_NS"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir() + "/"
			if tt.name != "kernel" {
				tt.files = withFile(tt.files, "proc/self/ns/user")
			}
			for name, content := range tt.files {
				os.MkdirAll(filepath.Dir(root+name), 0o755)
				if err := os.WriteFile(root+name, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			err := &UnavailableError{Reasons: reasons(tt.err, root), Err: tt.err}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%q does not mention %q", err, tt.want)
			}
			if !errors.Is(err, tt.err) {
				t.Errorf("%v does not wrap %v", err, tt.err)
			}
		})
	}
}

func withFile(files map[string]string, name string) map[string]string {
	out := map[string]string{name: ""}
	for k, v := range files {
		out[k] = v
	}
	return out
}
