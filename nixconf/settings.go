package nixconf

import "slices"

// Kind is what values a setting takes, as far as that is checked when it is set.
type Kind uint8

// The kinds of settings.
const (
	String Kind = iota // anything
	Bool               // true, yes, 1, false, no, 0
	Int                // a number with an optional suffix K, M, G or T, powers of 1024
	Jobs               // a number, or auto
	List               // words; may be appended to
	Map                // words "name=value"; may be appended to
)

func (k Kind) appendable() bool { return k == List || k == Map }

// Setting is one setting that Nix knows.
type Setting struct {
	Name    string
	Kind    Kind
	Aliases []string // older names
	Feature string   // experimental feature without which it is ignored, or ""
}

// Settings are all settings of Nix 2.34.8 on Linux, sorted by name: those of
// nix.conf, not those of stores. It must not be changed.
// Source: what `nix config show --json` lists there; which may be appended to, by
// trying.
var Settings = []Setting{
	{Name: "abort-on-warn", Kind: Bool},
	{Name: "accept-flake-config", Kind: Bool, Feature: "flakes"},
	{Name: "access-tokens", Kind: Map},
	{Name: "allow-dirty", Kind: Bool},
	{Name: "allow-dirty-locks", Kind: Bool, Feature: "flakes"},
	{Name: "allow-import-from-derivation", Kind: Bool},
	{Name: "allow-new-privileges", Kind: Bool},
	{Name: "allow-symlinked-store", Kind: Bool},
	{Name: "allow-unsafe-native-code-during-evaluation", Kind: Bool},
	{Name: "allowed-impure-host-deps", Kind: String},
	{Name: "allowed-uris", Kind: List},
	{Name: "allowed-users", Kind: List},
	{Name: "always-allow-substitutes", Kind: Bool},
	{Name: "auto-allocate-uids", Kind: Bool, Feature: "auto-allocate-uids"},
	{Name: "auto-optimise-store", Kind: Bool},
	{Name: "bash-prompt", Kind: String},
	{Name: "bash-prompt-prefix", Kind: String},
	{Name: "bash-prompt-suffix", Kind: String},
	{Name: "build-dir", Kind: String},
	{Name: "build-hook", Kind: List},
	{Name: "build-poll-interval", Kind: Int},
	{Name: "build-users-group", Kind: String},
	{Name: "builders", Kind: String},
	{Name: "builders-use-substitutes", Kind: Bool},
	{Name: "commit-lock-file-summary", Kind: String, Aliases: []string{"commit-lockfile-summary"}, Feature: "flakes"},
	{Name: "compress-build-log", Kind: Bool, Aliases: []string{"build-compress-log"}},
	{Name: "connect-timeout", Kind: Int},
	{Name: "cores", Kind: Int, Aliases: []string{"build-cores"}},
	{Name: "debugger-on-trace", Kind: Bool},
	{Name: "debugger-on-warn", Kind: Bool},
	{Name: "diff-hook", Kind: String},
	{Name: "download-attempts", Kind: Int},
	{Name: "download-buffer-size", Kind: Int},
	{Name: "download-speed", Kind: Int},
	{Name: "eval-attrset-update-layer-rhs-threshold", Kind: Int},
	{Name: "eval-cache", Kind: Bool},
	{Name: "eval-profile-file", Kind: String},
	{Name: "eval-profiler", Kind: String},
	{Name: "eval-profiler-frequency", Kind: Int},
	{Name: "eval-system", Kind: String},
	{Name: "experimental-features", Kind: List},
	{Name: "external-builders", Kind: String},
	{Name: "extra-platforms", Kind: List},
	{Name: "fallback", Kind: Bool, Aliases: []string{"build-fallback"}},
	{Name: "filter-syscalls", Kind: Bool},
	{Name: "flake-registry", Kind: String, Feature: "flakes"},
	{Name: "fsync-metadata", Kind: Bool},
	{Name: "fsync-store-paths", Kind: Bool},
	{Name: "gc-reserved-space", Kind: Int},
	{Name: "hashed-mirrors", Kind: List},
	{Name: "http-connections", Kind: Int, Aliases: []string{"binary-caches-parallel-connections"}},
	{Name: "http2", Kind: Bool},
	{Name: "id-count", Kind: Int},
	{Name: "ignore-try", Kind: Bool},
	{Name: "ignored-acls", Kind: List},
	{Name: "impersonate-linux-26", Kind: Bool, Aliases: []string{"build-impersonate-linux-26"}},
	{Name: "impure-env", Kind: Map, Feature: "configurable-impure-env"},
	{Name: "json-log-path", Kind: String},
	{Name: "keep-build-log", Kind: Bool, Aliases: []string{"build-keep-log"}},
	{Name: "keep-derivations", Kind: Bool, Aliases: []string{"gc-keep-derivations"}},
	{Name: "keep-env-derivations", Kind: Bool, Aliases: []string{"env-keep-derivations"}},
	{Name: "keep-failed", Kind: Bool},
	{Name: "keep-going", Kind: Bool},
	{Name: "keep-outputs", Kind: Bool, Aliases: []string{"gc-keep-outputs"}},
	{Name: "lint-absolute-path-literals", Kind: String},
	{Name: "lint-short-path-literals", Kind: String},
	{Name: "lint-url-literals", Kind: String},
	{Name: "log-lines", Kind: Int},
	{Name: "max-build-log-size", Kind: Int, Aliases: []string{"build-max-log-size"}},
	{Name: "max-call-depth", Kind: Int},
	{Name: "max-free", Kind: Int},
	{Name: "max-jobs", Kind: Jobs, Aliases: []string{"build-max-jobs"}},
	{Name: "max-silent-time", Kind: Int, Aliases: []string{"build-max-silent-time"}},
	{Name: "max-substitution-jobs", Kind: Int, Aliases: []string{"substitution-max-jobs"}},
	{Name: "min-free", Kind: Int},
	{Name: "min-free-check-interval", Kind: Int},
	{Name: "nar-buffer-size", Kind: Int},
	{Name: "narinfo-cache-meta-ttl", Kind: Int},
	{Name: "narinfo-cache-negative-ttl", Kind: Int},
	{Name: "narinfo-cache-positive-ttl", Kind: Int},
	{Name: "netrc-file", Kind: String},
	{Name: "nix-path", Kind: List},
	{Name: "nix-shell-always-looks-for-shell-nix", Kind: Bool},
	{Name: "nix-shell-shebang-arguments-relative-to-script", Kind: Bool},
	{Name: "plugin-files", Kind: String},
	{Name: "post-build-hook", Kind: String},
	{Name: "pre-build-hook", Kind: String},
	{Name: "preallocate-contents", Kind: Bool},
	{Name: "print-missing", Kind: Bool},
	{Name: "pure-eval", Kind: Bool},
	{Name: "require-drop-supplementary-groups", Kind: Bool},
	{Name: "require-sigs", Kind: Bool},
	{Name: "restrict-eval", Kind: Bool},
	{Name: "run-diff-hook", Kind: Bool},
	{Name: "sandbox", Kind: String, Aliases: []string{"build-use-chroot", "build-use-sandbox"}},
	{Name: "sandbox-build-dir", Kind: String},
	{Name: "sandbox-dev-shm-size", Kind: String},
	{Name: "sandbox-fallback", Kind: Bool},
	{Name: "sandbox-paths", Kind: List, Aliases: []string{"build-chroot-dirs", "build-sandbox-paths"}},
	{Name: "secret-key-files", Kind: List},
	{Name: "show-trace", Kind: Bool},
	{Name: "ssl-cert-file", Kind: String},
	{Name: "stalled-download-timeout", Kind: Int},
	{Name: "start-id", Kind: Int},
	{Name: "store", Kind: String},
	{Name: "substitute", Kind: Bool, Aliases: []string{"build-use-substitutes"}},
	{Name: "substituters", Kind: List, Aliases: []string{"binary-caches"}},
	{Name: "sync-before-registering", Kind: Bool},
	{Name: "system", Kind: String},
	{Name: "system-features", Kind: List},
	{Name: "tarball-ttl", Kind: Int},
	{Name: "timeout", Kind: Int, Aliases: []string{"build-timeout"}},
	{Name: "trace-function-calls", Kind: Bool},
	{Name: "trace-import-from-derivation", Kind: Bool},
	{Name: "trace-verbose", Kind: Bool},
	{Name: "trust-tarballs-from-git-forges", Kind: Bool},
	{Name: "trusted-public-keys", Kind: List, Aliases: []string{"binary-cache-public-keys"}},
	{Name: "trusted-substituters", Kind: List, Aliases: []string{"trusted-binary-caches"}},
	{Name: "trusted-users", Kind: List},
	{Name: "upgrade-nix-store-path-url", Kind: String},
	{Name: "use-case-hack", Kind: Bool},
	{Name: "use-cgroups", Kind: Bool},
	{Name: "use-registries", Kind: Bool, Feature: "flakes"},
	{Name: "use-sqlite-wal", Kind: Bool},
	{Name: "use-xdg-base-directories", Kind: Bool},
	{Name: "user-agent-suffix", Kind: String},
	{Name: "warn-dirty", Kind: Bool},
	{Name: "warn-large-path-threshold", Kind: Int},
	{Name: "warn-short-path-literals", Kind: Bool},
}

// Features are the experimental features of Nix 2.34.8, sorted. It must not be
// changed.
var Features = []string{
	"auto-allocate-uids",
	"blake3-hashes",
	"ca-derivations",
	"cgroups",
	"configurable-impure-env",
	"daemon-trust-override",
	"dynamic-derivations",
	"external-builders",
	"fetch-closure",
	"fetch-tree",
	"flakes",
	"git-hashing",
	"impure-derivations",
	"local-overlay-store",
	"mounted-ssh-store",
	"nix-command",
	"parse-toml-timestamps",
	"pipe-operators",
	"read-only-local-store",
	"recursive-nix",
	"verified-fetches",
}

var byName = func() map[string]*Setting {
	m := map[string]*Setting{}
	for i := range Settings {
		s := &Settings[i]
		for _, name := range append([]string{s.Name}, s.Aliases...) {
			m[name] = s
		}
	}
	return m
}()

// names are all names that may be set, for suggestions.
var names = func() []string {
	var all []string
	for name, s := range byName {
		all = append(all, name)
		if s.Kind.appendable() {
			all = append(all, "extra-"+name)
		}
	}
	slices.Sort(all)
	return all
}()
