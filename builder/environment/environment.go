package environment

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Home is HOME of a builder: a directory that must not exist.
const Home = "/homeless-shelter"

// Spec is what an environment is made of.
type Spec struct {
	// Store is asked about derivations in graphs of references, and nothing else.
	Store Store
	Drv   *derivation.Basic
	// Inputs is the closure of what the derivation may use.
	Inputs []*store.PathInfo
	// BuildDir is the build directory as the builder sees it.
	BuildDir string
	// Cores is the setting; 0: as many as there are.
	Cores int

	// Options are the attributes of Drv.
	Options *derivation.Options
	// ImpureEnv is the setting: values of impure variables that are not to be taken
	// from the environment of this process.
	ImpureEnv map[string]string
}

// Store is what graphs of references need of a store.
type Store interface {
	store.Store
	// Derivation reads a derivation, valid or not.
	Derivation(ctx context.Context, p storepath.Path) (*derivation.Derivation, error)
}

// RejectedError says that a derivation asks for what it cannot have. The build
// has failed with InputRejected.
type RejectedError struct{ Why string }

func (e *RejectedError) Error() string { return e.Why }

func rejected(format string, args ...any) error {
	return &RejectedError{Why: fmt.Sprintf(format, args...)}
}

// Environment is what a builder finds.
type Environment struct {
	Vars map[string]string
	// Files in the build directory, by name: single components.
	Files map[string]string
}

// Make makes the environment of a build. A [RejectedError] is the derivation's
// fault.
func Make(ctx context.Context, spec Spec) (*Environment, error) {
	e := &Environment{Files: map[string]string{}, Vars: map[string]string{
		"PATH":            "/path-not-set",
		"HOME":            Home,
		"NIX_STORE":       string(spec.Store.Dir()),
		"NIX_BUILD_CORES": strconv.Itoa(cores(spec.Cores)),
	}}
	var err error
	if spec.Options.Structured != nil {
		err = e.structured(ctx, &spec)
	} else {
		err = e.plain(ctx, &spec)
	}
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"} {
		e.Vars[name] = spec.BuildDir
	}
	if err := e.impure(&spec); err != nil {
		return nil, err
	}
	e.Vars["NIX_LOG_FD"] = "2"
	e.Vars["TERM"] = "xterm-256color"
	return e, e.check()
}

func cores(setting int) int {
	if setting > 0 {
		return setting
	}
	return runtime.GOMAXPROCS(0) // which knows of limits of control groups
}

// plain takes the variables of a derivation without structured attributes.
func (e *Environment) plain(ctx context.Context, spec *Spec) error {
	for name, value := range spec.Drv.Env {
		if slices.Contains(spec.Options.PassAsFile, name) {
			e.file(spec, name+"Path", ".attr-"+nixhash.Of(nixhash.SHA256, name).Digest(nixhash.Nix32), value)
		} else {
			e.Vars[name] = value
		}
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Options.ExportReferencesGraph)) {
		infos, err := spec.graph(ctx, spec.Options.ExportReferencesGraph[name])
		if err != nil {
			return err
		}
		e.Files[name] = registration(spec.Store.Dir(), infos)
	}
	return nil
}

// file puts contents into a file that a variable names.
func (e *Environment) file(spec *Spec, variable, name, contents string) {
	e.Files[name] = contents
	e.Vars[variable] = path.Join(spec.BuildDir, name)
}

// impure adds what only builds get whose results are known, or which need not be
// the same twice.
func (e *Environment) impure(spec *Spec) error {
	kind, err := spec.Drv.Kind()
	if err != nil {
		return err
	}
	if kind == derivation.Fixed {
		e.Vars["NIX_OUTPUT_CHECKED"] = "1"
	}
	if kind.IsSandboxed() {
		return nil
	}
	for _, name := range spec.Options.ImpureEnvVars {
		if value, ok := spec.ImpureEnv[name]; ok {
			e.Vars[name] = value
		} else {
			e.Vars[name] = os.Getenv(name)
		}
	}
	return nil
}

// check refuses what no process can be given.
func (e *Environment) check() error {
	for name, value := range e.Vars {
		if strings.IndexByte(name, 0) >= 0 || strings.IndexByte(value, 0) >= 0 {
			return rejected("environment variable %.100q has a NUL byte in it", name)
		}
	}
	return nil
}

// Rewrite replaces text in all variables, names included, and in all files, see
// [derivation.Rewrite].
func (e *Environment) Rewrite(rewrites map[string]string) {
	vars := make(map[string]string, len(e.Vars))
	for name, value := range e.Vars {
		vars[derivation.Rewrite(name, rewrites)] = derivation.Rewrite(value, rewrites)
	}
	e.Vars = vars
	for name, contents := range e.Files {
		e.Files[name] = derivation.Rewrite(contents, rewrites)
	}
}

// List gives the variables as "NAME=value", sorted by name.
func (e *Environment) List() []string {
	list := make([]string, 0, len(e.Vars))
	for _, name := range slices.Sorted(maps.Keys(e.Vars)) {
		list = append(list, name+"="+e.Vars[name])
	}
	return list
}
