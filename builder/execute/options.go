package execute

import (
	"context"
	"net"
	"time"

	"github.com/strata-nix/strata/store"
)

// SandboxMode is the setting sandbox.
type SandboxMode uint8

// The modes. The zero value is upstream's default on Linux.
const (
	Sandboxed SandboxMode = iota // "true"
	Relaxed                      // "relaxed": not for fixed-output and __noChroot derivations
	Unboxed                      // "false"
)

// SandboxPath is one entry of sandbox-paths, "target=source?".
type SandboxPath struct {
	Target   string // in the sandbox
	Source   string // outside; Target if empty
	Optional bool   // nothing happens if there is no Source
}

// Owner is a user of this machine.
type Owner struct{ UID, GID int }

// Options are the settings of nix.conf that a build obeys, named as there. The
// zero value is good.
type Options struct {
	BuildDir string // "build-dir"; <state>/builds if empty
	Cores    int    // "cores"; 0: as many as there are

	Sandbox             SandboxMode   // "sandbox"
	SandboxPaths        []SandboxPath // "sandbox-paths"
	NoSandboxFallback   bool          // "sandbox-fallback" is false
	SandboxBuildDir     string        // "sandbox-build-dir"; /build if empty
	SandboxDevShmSize   string        // "sandbox-dev-shm-size"; 50% if empty
	AllowedImpureDeps   []string      // "allowed-impure-host-deps"
	NoFilterSyscalls    bool          // "filter-syscalls" is false
	AllowNewPrivileges  bool          // "allow-new-privileges"
	ImpersonateLinux26  bool          // "impersonate-linux-26"
	UseCgroups          bool          // "use-cgroups"
	KeepSupplementaryGs bool          // "require-drop-supplementary-groups" is false

	KeepFailed bool   // "keep-failed"
	KeepFor    *Owner // who gets a build directory that is kept; nil: the build user

	NoBuildLog      bool              // "keep-build-log" is false
	PlainBuildLog   bool              // "compress-build-log" is false
	LogLines        int               // "log-lines": shown of the log of a failed build; 25 if 0
	MaxBuildLogSize uint64            // "max-build-log-size", bytes; 0: no limit
	MaxSilentTime   time.Duration     // "max-silent-time"; 0: no limit
	Timeout         time.Duration     // "timeout"; 0: no limit
	SystemFeatures  []string          // "system-features"; kvm shows /dev/kvm
	Features        []string          // "experimental-features"
	ImpureEnv       map[string]string // "impure-env"
	PreBuildHook    string            // "pre-build-hook"
	PostBuildHook   string            // "post-build-hook"
	DiffHook        string            // "diff-hook", if "run-diff-hook"
	SSLCertFile     string            // "ssl-cert-file"
	AutoOptimise    bool              // "auto-optimise-store"
	// Config is NIX_CONFIG of the post-build hook: all settings, "name = value" lines.
	Config string

	// ServeNix serves the worker protocol to a client in a sandbox until the
	// connection ends. nil: there is no recursive Nix.
	ServeNix func(ctx context.Context, conn net.Conn, s store.Store)
}

// DefaultLogLines is log-lines unless it is set.
const DefaultLogLines = 25
