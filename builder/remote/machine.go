package remote

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/strata-nix/strata/store"
)

// Machine is one that builds for others.
type Machine struct {
	// URI is its store, as it was given; it names the machine in messages and in the
	// files that tell how busy it is.
	URI string
	// Store is how its store is opened.
	Store store.Reference
	// Systems are those that it builds for: x86_64-linux.
	Systems []string
	// MaxJobs is how many builds it takes at once.
	MaxJobs int
	// Speed compares it with others, 1 if nothing is said.
	Speed float64
	// Supported are system features that it has, Mandatory those without which
	// nothing is built there.
	Supported, Mandatory []string
}

// MachineError is a line about a machine that makes no sense.
type MachineError struct {
	File string // "" for the setting itself
	Line string
	Why  string
}

func (e *MachineError) Error() string {
	where := ""
	if e.File != "" {
		where = " in '" + e.File + "'"
	}
	return fmt.Sprintf("bad machine specification '%.300s'%s: %s", e.Line, where, e.Why)
}

// Limits on what a setting may say.
const (
	maxMachines    = 10_000
	maxMachineFile = 4 << 20 // bytes
	maxIncludes    = 8       // files within files
	maxJobs        = 1 << 12 // of one machine; each is a file
)

// ParseMachines reads the setting builders. system is what a machine builds for of
// which nothing is said. "@/etc/nix/machines" stands for what is in that file, if it
// is there.
func ParseMachines(text, system string) ([]Machine, error) {
	p := parser{system: system}
	err := p.parse(text, "", 0)
	return p.machines, err
}

type parser struct {
	system   string
	machines []Machine
}

func (p *parser) parse(text, file string, depth int) error {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		for entry := range strings.SplitSeq(line, ";") {
			entry = strings.TrimSpace(entry)
			var err error
			switch path, include := strings.CutPrefix(entry, "@"); {
			case entry == "":
			case include:
				err = p.include(strings.TrimSpace(path), depth+1)
			default:
				err = p.add(entry, file)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *parser) include(path string, depth int) error {
	if depth > maxIncludes {
		return &MachineError{File: path, Line: "@" + path, Why: "files include each other"}
	}
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && st.Size() > maxMachineFile {
		return &MachineError{Line: "@" + path, Why: fmt.Sprintf("the file is larger than %d bytes", maxMachineFile)}
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return fmt.Errorf("reading which machines build for this one: %w", err)
	}
	return p.parse(string(text), path, depth)
}

// add reads "URI systems key jobs speed supported mandatory host-key"; what is
// missing or "-" has its default.
func (p *parser) add(line, file string) error {
	fail := func(format string, args ...any) error {
		return &MachineError{File: file, Line: line, Why: fmt.Sprintf(format, args...)}
	}
	words := strings.Fields(line)
	field := func(i int) string {
		if i < len(words) && words[i] != "-" {
			return words[i]
		}
		return ""
	}
	m := Machine{URI: storeURI(words[0]), Systems: list(field(1)), MaxJobs: 1, Speed: 1, Supported: list(field(5)), Mandatory: list(field(6))}
	if len(m.Systems) == 0 {
		m.Systems = []string{p.system}
	}
	var err error
	if m.Store, err = store.ParseReference(m.URI); err != nil {
		return fail("%v", err)
	}
	if text := field(3); text != "" {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return fail("'%s' is not a number of jobs", text)
		}
		m.MaxJobs = int(min(n, maxJobs))
	}
	if text := field(4); text != "" {
		if m.Speed, err = strconv.ParseFloat(text, 64); err != nil || m.Speed < 0 || m.Speed != m.Speed {
			return fail("'%s' is not a speed", text)
		}
		if m.Speed == 0 {
			m.Speed = 1
		}
	}
	key := field(7)
	if _, err := base64.StdEncoding.DecodeString(key); err != nil {
		return fail("'%.100s' is not the base64 of a host key", key)
	}
	m.login(field(2), key)
	if p.machines = append(p.machines, m); len(p.machines) > maxMachines {
		return fail("there are more than %d machines", maxMachines)
	}
	return nil
}

// login has the keys among the parameters of the store, where those of ssh take
// them from.
func (m *Machine) login(key, hostKey string) {
	if m.Store.Scheme != "ssh" && m.Store.Scheme != "ssh-ng" {
		return
	}
	set := func(name, value string) {
		if value != "" {
			if m.Store.Params == nil {
				m.Store.Params = map[string][]string{}
			}
			m.Store.Params[name] = []string{value}
		}
	}
	set("ssh-key", key)
	set("base64-ssh-public-host-key", hostKey)
	set("max-connections", "1")
}

// storeURI takes a word that is no URI for the name of a host.
func storeURI(word string) string {
	kind, _, _ := strings.Cut(word, "?")
	if strings.Contains(word, "/") || kind == "" || slices.Contains([]string{"auto", "daemon", "local"}, kind) {
		return word
	}
	return "ssh://" + word
}

func list(field string) []string {
	return slices.DeleteFunc(strings.Split(field, ","), func(s string) bool { return s == "" })
}

// Need is what a derivation asks of a machine.
type Need struct {
	System   string
	Features []string // that the machine must have
}

// Suits tells whether the machine is of the right kind.
func (m *Machine) Suits(n Need) bool {
	has := func(list []string) func(string) bool {
		return func(s string) bool { return !slices.Contains(list, s) }
	}
	return (n.System == "builtin" || slices.Contains(m.Systems, n.System)) &&
		!slices.ContainsFunc(n.Features, has(slices.Concat(m.Supported, m.Mandatory))) &&
		!slices.ContainsFunc(m.Mandatory, has(n.Features))
}
