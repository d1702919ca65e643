package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
	"github.com/strata-nix/strata/trust"
	"github.com/strata-nix/strata/worker"
)

// Defaults of Nix that are no package's own.
const (
	defaultStateDir = "/nix/var/nix"
	defaultLogDir   = "/nix/var/log/nix"
	defaultKey      = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
	defaultCache    = "https://cache.nixos.org/"
	socketInState   = "daemon-socket/socket"
)

// config is what strata takes from the environment, nix.conf and --option, in
// the types of those who obey it.
type config struct {
	dir              storepath.Dir
	stateDir, logDir string // of a store without a root
	socket           string // of the daemon
	remote           string // URI of the store to use, "" for auto
	dataHome         string // for a store in the home directory; "" if there is none
	ownPlaces        bool   // the environment says where the store is

	local               local.Options // what nix.conf says of local stores
	users               trust.Users
	pool                *substitute.Pool // of all stores that this process opens
	trustedSubstituters []string         // for clients that are not trusted
	waitForLowers       time.Duration
	tolerant            bool            // layered stores are opened although their mount is wrong
	forDaemon           *worker.Options // settings for a daemon that builds
	tellDaemon          bool            // it gets them

	network        *network
	secretKeyFiles []string                              // to sign with
	sshOptions     []string                              // of NIX_SSHOPTS
	tell           func(line string)                     // what commands of stores write to standard error
	account        func(context.Context) func(bytes int) // of lazy stores, see there; nil: nobody does
	log            *slog.Logger                          // what stores have to say that nobody asked; nil: nothing

	warnings   []string
	passedOver []string // settings that are not obeyed, for those whom it matters to
}

// environment is os.LookupEnv, or a test's.
type environment func(name string) (string, bool)

// nonEmpty gives a variable, or what it is if it is not set or empty.
func (env environment) nonEmpty(name, otherwise string) string {
	v, _ := env(name)
	return cmp.Or(v, otherwise)
}

// dirIn is one of XDG's directories: the variable, or a place in the home
// directory; "" if there is none.
func (env environment) dirIn(variable, inHome string) string {
	if v := env.nonEmpty(variable, ""); v != "" {
		return v
	}
	if home := env.nonEmpty("HOME", ""); home != "" {
		return filepath.Join(home, inHome)
	}
	return ""
}

// loadConfig reads configuration. options are "NAME=VALUE", and win.
// Source: the Nix manual, "nix.conf" and "Common Environment Variables".
func loadConfig(env environment, options []string) (*config, error) {
	c := &config{tell: func(line string) { _, _ = fmt.Fprintln(os.Stderr, line) }}
	if err := c.places(env); err != nil {
		return nil, err
	}
	s, err := readSettings(env, options)
	if err != nil {
		return nil, err
	}
	return c, c.obey(env, s)
}

// places takes the directories from the environment.
func (c *config) places(env environment) (err error) {
	c.dir, err = storepath.ParseDir(env.nonEmpty("NIX_STORE_DIR", env.nonEmpty("NIX_STORE", string(storepath.DefaultDir))))
	if err != nil {
		return fmt.Errorf("NIX_STORE_DIR: %w", err)
	}
	for _, p := range []struct {
		to                  *string
		variable, otherwise string
	}{
		{&c.stateDir, "NIX_STATE_DIR", defaultStateDir},
		{&c.logDir, "NIX_LOG_DIR", defaultLogDir},
	} {
		if *p.to, err = absolute(p.variable, env.nonEmpty(p.variable, p.otherwise)); err != nil {
			return err
		}
	}
	const socket = "NIX_DAEMON_SOCKET_PATH"
	if c.socket, err = absolute(socket, env.nonEmpty(socket, filepath.Join(c.stateDir, socketInState))); err != nil {
		return err
	}
	c.remote, _ = env("NIX_REMOTE")
	if c.sshOptions, err = splitShell(env.nonEmpty("NIX_SSHOPTS", "")); err != nil {
		return fmt.Errorf("NIX_SSHOPTS: %w", err)
	}
	_, storeSet := env("NIX_STORE_DIR")
	_, stateSet := env("NIX_STATE_DIR")
	c.ownPlaces = storeSet || stateSet
	c.dataHome = env.nonEmpty("NIX_DATA_HOME", "")
	if data := env.dirIn("XDG_DATA_HOME", ".local/share"); c.dataHome == "" && data != "" {
		c.dataHome = filepath.Join(data, "nix")
	}
	return nil
}

func absolute(variable, path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%s is '%s', which is not an absolute path", variable, path)
	}
	return filepath.Clean(path), nil
}

// obey maps settings onto options.
func (c *config) obey(env environment, s *settings) error {
	c.remote = s.String("store", c.remote)
	c.local = local.Options{
		RequireSigs:           s.flag("require-sigs", true),
		NoWAL:                 !s.flag("use-sqlite-wal", true),
		NoSync:                !s.flag("fsync-metadata", true),
		FsyncStorePaths:       s.flag("fsync-store-paths", false),
		SyncBeforeRegistering: s.flag("sync-before-registering", false),
		BuildUsersGroup:       s.String("build-users-group", defaultBuildUsersGroup()),
		KeepOutputs:           s.flag("keep-outputs", false),
		DropDerivations:       !s.flag("keep-derivations", true),
		AutoOptimise:          s.flag("auto-optimise-store", false),
		AllowSymlinkedStore:   s.flag("allow-symlinked-store", env.nonEmpty("NIX_IGNORE_SYMLINK_STORE", "") == "1"),
	}
	c.local.AutoGC = s.autoGC()
	c.local.CADerivations = s.HasFeature("ca-derivations")
	c.local.GitHashing = s.HasFeature("git-hashing")
	c.local.TrustedKeys = s.keys()
	c.local.Build = s.building(env)
	c.local.Build.OpenMachine = c.openMachine

	c.users = trust.DefaultUsers()
	c.users.Trusted = s.Strings("trusted-users", c.users.Trusted)
	c.users.Allowed = s.Strings("allowed-users", c.users.Allowed)
	c.users.BuildUsersGroup = c.local.BuildUsersGroup
	c.pool = substitute.NewPool(c.openSubstituter)
	c.local.Substituters = s.Strings("substituters", []string{defaultCache})
	c.local.NoSubstitute = !s.flag("substitute", true)
	c.local.Fallback = s.flag("fallback", false)
	jobs, err := s.Uint("max-substitution-jobs", substitute.DefaultJobs)
	s.note(err)
	c.local.SubstitutionJobs = int(min(max(jobs, 1), 1000)) //nolint:gosec // even 0 lets one be under way, as in Nix
	c.trustedSubstituters = slices.Concat(c.local.Substituters, s.Strings("trusted-substituters", nil))
	c.secretKeyFiles = s.keyFiles()
	c.obeyNetwork(env, s)
	c.local.Build.Execute.Transfer = c.network.client()
	c.forDaemon = s.forDaemon(&c.local)
	c.passedOver = s.passedOver()
	for _, w := range s.Warnings() {
		c.warnings = append(c.warnings, w.String())
	}
	return s.end()
}

func defaultBuildUsersGroup() string {
	if os.Geteuid() == 0 {
		return "nixbld"
	}
	return ""
}

// reference reads a store URI; "" is what is configured.
func (c *config) reference(uri string) (store.Reference, error) {
	return parseReference(cmp.Or(uri, c.remote))
}

// served is the store that a daemon is to serve: never itself, though Nix's
// variables may well tell clients to use it. socket is where it listens, "" if
// nowhere.
func (c *config) served(ctx context.Context, uri, socket string) (store.Reference, error) {
	ref, err := c.reference(uri)
	if err != nil {
		return ref, err
	}
	if ref.Scheme == "auto" {
		ref = c.resolveAuto(ctx, ref)
	}
	if ref.Scheme != "unix" || c.socketOf(ref) != socket {
		return ref, nil
	}
	if uri != "" && uri != "auto" {
		return ref, fmt.Errorf("the daemon cannot serve '%s', as that is itself", uri)
	}
	return store.Reference{Scheme: "local", Params: ref.Params}, nil
}

// daemonOptions are what daemons are told, nil if they keep their own settings:
// commands that only ask have no use for others.
func (c *config) daemonOptions() *worker.Options {
	if !c.tellDaemon {
		return nil
	}
	return c.forDaemon
}

// dirOf is the store directory of a store that need not be opened for that.
func (c *config) dirOf(ref store.Reference) (storepath.Dir, error) {
	if text := ref.Param("store"); text != "" {
		return storepath.ParseDir(text)
	}
	return c.dir, nil
}
