package execute

import (
	"context"
	"io"
	"net"
	"net/url"
	"time"

	"github.com/strata-nix/strata/builder/sandbox"
	"github.com/strata-nix/strata/filetransfer"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/trust"
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

// Options are the settings of nix.conf that a build obeys, named as there. The
// zero value is good.
type Options struct {
	BuildDir string // "build-dir"; <state>/builds if empty
	Cores    int    // "cores"; 0: as many as there are
	// Users run builders ("build-users-group", "auto-allocate-uids"). The zero value: this
	// process's user does.
	Users sandbox.Users

	Sandbox               SandboxMode   // "sandbox"
	SandboxPaths          []SandboxPath // "sandbox-paths"
	NoSandboxFallback     bool          // "sandbox-fallback" is false
	SandboxBuildDir       string        // "sandbox-build-dir"; /build if empty
	SandboxDevShmSize     string        // "sandbox-dev-shm-size"; 50% if empty
	AllowedImpureHostDeps []string      // "allowed-impure-host-deps"
	NoFilterSyscalls      bool          // "filter-syscalls" is false
	AllowNewPrivileges    bool          // "allow-new-privileges"
	ImpersonateLinux26    bool          // "impersonate-linux-26"
	KeepGroups            bool          // "require-drop-supplementary-groups" is false
	UseCgroups            bool          // "use-cgroups"

	KeepFailed      bool          // "keep-failed"
	NoBuildLog      bool          // "keep-build-log" is false
	PlainBuildLog   bool          // "compress-build-log" is false
	LogLines        int           // "log-lines" that are shown of the log of a failed build; 25 if 0, none if negative
	MaxBuildLogSize uint64        // "max-build-log-size", bytes; 0: no limit
	MaxSilentTime   time.Duration // "max-silent-time"; 0: no limit
	Timeout         time.Duration // "timeout"; 0: no limit

	SystemFeatures []string          // "system-features"; kvm shows /dev/kvm
	Features       []string          // "experimental-features"
	ImpureEnv      map[string]string // "impure-env"
	SSLCertFile    string            // "ssl-cert-file"
	IgnoredACLs    []string          // "ignored-acls"; nil: upstream's default
	SecretKeys     []trust.SecretKey // "secret-key-files"

	PreBuildHook  string // "pre-build-hook"
	PostBuildHook string // "post-build-hook"
	DiffHook      string // "diff-hook", if "run-diff-hook"
	// Config is NIX_CONFIG of the post-build hook: all settings, "name = value" lines.
	Config string

	// Transfer downloads for builtin:fetchurl, which looks at HashedMirrors first
	// ("hashed-mirrors") and opens URLs of other schemes by Schemes.
	Transfer      *filetransfer.Client
	HashedMirrors []string
	Schemes       map[string]func(context.Context, *url.URL) (io.ReadCloser, error)

	// ServeNix serves the worker protocol to a client in a sandbox until the
	// connection or ctx ends. nil: there is no recursive Nix.
	ServeNix func(ctx context.Context, conn net.Conn, s store.Store)
}

// DefaultLogLines is log-lines unless it is set.
const DefaultLogLines = 25
