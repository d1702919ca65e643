package main

import (
	"cmp"
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder"
	"github.com/strata-nix/strata/nixconf"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/worker"
)

// defaultMaxJobs is Nix's.
const defaultMaxJobs = 1

// building are the settings that say what is built here, and how.
// Source of the defaults: the Nix manual, "nix.conf".
func (s *settings) building(env environment) builder.Options {
	o := builder.Options{
		MaxJobs:        defaultMaxJobs,
		System:         thisSystem(),
		ExtraPlatforms: extraPlatforms(),
		Builders:       "@" + filepath.Join(env.nonEmpty("NIX_CONF_DIR", nixconf.DefaultDir), "machines"),
	}
	o.Execute.SystemFeatures = systemFeatures()
	o.Execute.SSLCertFile = sslCertFile(env)
	o.Execute.Users.Group = defaultBuildUsersGroup()
	o.Execute.KeepGroups = os.Geteuid() != 0
	o.Execute.ServeNix = serveNix
	s.note(o.Obey(s.Config))
	return o
}

// forDaemon are the settings that a command sends to a daemon which is to build for
// it.
func (s *settings) forDaemon(l *local.Options) *worker.Options {
	e := &l.Build.Execute
	o := &worker.Options{
		KeepFailed: e.KeepFailed, KeepGoing: l.Build.KeepGoing, Fallback: l.Fallback, Verbosity: activity.Info,
		MaxJobs: uint64(l.Build.MaxJobs), MaxSilentTime: uint64(e.MaxSilentTime / time.Second), VerboseBuild: true,
		Cores: uint64(max(e.Cores, 0)), Substitute: !l.NoSubstitute, Overrides: s.Overrides(),
	}
	for _, name := range []string{"keep-failed", "keep-going", "fallback", "max-jobs", "max-silent-time", "cores", "substitute"} {
		delete(o.Overrides, name)
	}
	return o
}

// thisSystem is what Nix calls a machine like this.
func thisSystem() string {
	names := map[string]string{
		"386": "i686", "amd64": "x86_64", "arm": "armv7l", "arm64": "aarch64", "loong64": "loongarch64",
		"mips64le": "mips64el", "ppc64le": "powerpc64le", "riscv64": "riscv64", "s390x": "s390x",
	}
	return cmp.Or(names[runtime.GOARCH], runtime.GOARCH) + "-linux"
}

// extraPlatforms are other systems whose programs run here.
func extraPlatforms() []string {
	if runtime.GOARCH != "amd64" {
		return nil
	}
	platforms := []string{"i686-linux"}
	var uts unix.Utsname
	// The first Windows Subsystem for Linux has no 32-bit programs.
	if unix.Uname(&uts) == nil && strings.HasSuffix(unix.ByteSliceToString(uts.Release[:]), "-Microsoft") {
		platforms = nil
	}
	x := &cpu.X86
	for level, has := range []bool{
		true,
		x.HasCX16 && x.HasPOPCNT && x.HasSSE3 && x.HasSSSE3 && x.HasSSE41 && x.HasSSE42,
		x.HasAVX && x.HasAVX2 && x.HasBMI1 && x.HasBMI2 && x.HasFMA && x.HasOSXSAVE,
		x.HasAVX512F && x.HasAVX512BW && x.HasAVX512CD && x.HasAVX512DQ && x.HasAVX512VL,
	} {
		if !has {
			break
		}
		platforms = append(platforms, "x86_64-v"+string(rune('1'+level))+"-linux")
	}
	return platforms
}

// systemFeatures are what derivations may require of any machine, and what this
// one has.
func systemFeatures() []string {
	features := []string{"benchmark", "big-parallel", "nixos-test", "uid-range"}
	if unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) == nil {
		features = append(features, "kvm")
	}
	return features
}

// sslCertFile is the certificates that builders get which may use the network.
func sslCertFile(env environment) string {
	if file := env.nonEmpty("NIX_SSL_CERT_FILE", env.nonEmpty("SSL_CERT_FILE", "")); file != "" {
		return file
	}
	for _, file := range []string{"/etc/ssl/certs/ca-certificates.crt", "/nix/var/nix/profiles/default/etc/ssl/certs/ca-bundle.crt"} {
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return ""
}

// serveNix is the daemon of a builder that uses Nix itself. It trusts nobody.
func serveNix(ctx context.Context, conn net.Conn, st store.Store) {
	// The builder has been told by then what went wrong.
	_ = worker.Serve(ctx, conn, worker.Session{Store: st, Version: version})
}
