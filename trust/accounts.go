package trust

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Files are accounts in files of the form of /etc/passwd and /etc/group. A file
// that does not exist has no entries; lines that make no sense are passed over.
type Files struct{ Passwd, Group string }

// maxLine bounds a line of such a file; a group may list very many members.
const maxLine = 16 << 20

// UserName is that of [Accounts].
func (f Files) UserName(uid uint32) (string, error) { return nameIn(f.Passwd, uid, 7) }

// GroupName is that of [Accounts].
func (f Files) GroupName(gid uint32) (string, error) { return nameIn(f.Group, gid, 4) }

// IsListed is that of [Accounts].
func (f Files) IsListed(user string, groups []string) (bool, error) {
	found := false
	seen := map[string]bool{} // the first of a name counts
	err := eachEntry(f.Group, 4, func(e []string) bool {
		if slices.Contains(groups, e[0]) && !seen[e[0]] {
			seen[e[0]] = true
			found = lists(e[3], user)
		}
		return !found
	})
	return found, err
}

// lists tells whether "a,b,c" has a user.
func lists(members, user string) bool {
	for m := range strings.SplitSeq(members, ",") {
		if m == user && m != "" {
			return true
		}
	}
	return false
}

// nameIn finds the name that has an id in the third field.
func nameIn(file string, id uint32, fields int) (name string, err error) {
	want := strconv.FormatUint(uint64(id), 10)
	err = eachEntry(file, fields, func(e []string) bool {
		if e[2] == want {
			name = e[0]
		}
		return name == ""
	})
	return name, err
}

// eachEntry goes through the entries of a file as long as f says so.
func eachEntry(file string, fields int, f func(entry []string) bool) error {
	r, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		e, ok := parseEntry(lines.Text(), fields)
		if ok && !f(e) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading '%s': %w", file, err)
	}
	return nil
}

// parseEntry splits a line. Names that begin with + and - are orders to NIS.
func parseEntry(line string, fields int) ([]string, bool) {
	e := strings.Split(line, ":")
	if len(e) != fields || e[0] == "" || strings.ContainsAny(e[0][:1], "#+-") {
		return nil, false
	}
	return e, true
}

// System is the accounts of this machine: /etc/passwd and /etc/group, and where
// those do not know somebody and nsswitch.conf names other sources (LDAP, SSSD,
// systemd, …), what getent says. Reading those sources ourselves would take the C
// library.
func System() Accounts { return thisMachine }

const settling = 20 * time.Millisecond

// thisMachine is one for all, as it remembers.
var thisMachine = system{
	Files:  Files{Passwd: "/etc/passwd", Group: "/etc/group"},
	users:  &nameFile{path: "/etc/passwd", settling: settling},
	groups: &nameFile{path: "/etc/group", settling: settling},
	nss:    "/etc/nsswitch.conf",
	getent: []string{"/usr/bin/getent", "/run/current-system/sw/bin/getent", "/bin/getent"},
}

type system struct {
	Files
	users, groups *nameFile // the same files; nil: nothing is remembered
	nss           string
	getent        []string // where it may be
}

// getentTimeout is how long a directory service may take to know a user.
const getentTimeout = 10 * time.Second

func (s system) UserName(uid uint32) (string, error) {
	name, err := s.users.name(uid, s.Files.UserName)
	if name != "" || err != nil || !s.elsewhere("passwd") {
		return name, err
	}
	return s.askName("passwd", uid, 7)
}

func (s system) GroupName(gid uint32) (string, error) {
	name, err := s.groups.name(gid, s.Files.GroupName)
	if name != "" || err != nil || !s.elsewhere("group") {
		return name, err
	}
	return s.askName("group", gid, 4)
}

func (s system) IsListed(user string, groups []string) (bool, error) {
	listed, err := s.Files.IsListed(user, groups)
	if listed || err != nil || !s.elsewhere("group") {
		return listed, err
	}
	entries, err := s.ask("group", groups, 4)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		// getent takes a number for an id.
		if slices.Contains(groups, e[0]) && lists(e[3], user) {
			return true, nil
		}
	}
	return false, nil
}

func (s system) askName(database string, id uint32, fields int) (string, error) {
	key := strconv.FormatUint(uint64(id), 10)
	entries, err := s.ask(database, []string{key}, fields)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if e[2] == key {
			return e[0], nil
		}
	}
	return "", nil
}

// elsewhere tells whether a database has other sources than its file.
func (s system) elsewhere(database string) bool {
	conf, err := os.ReadFile(s.nss)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(conf)) {
		line, _, _ = strings.Cut(line, "#")
		name, sources, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(name) != database {
			continue
		}
		for _, source := range strings.Fields(sources) {
			if source != "files" && source != "compat" && !strings.HasPrefix(source, "[") {
				return true
			}
		}
	}
	return false
}

// ask runs getent. Keys that it does not find are left out.
func (s system) ask(database string, keys []string, fields int) (entries [][]string, err error) {
	keys = slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return strings.HasPrefix(k, "-") })
	path := ""
	for _, p := range s.getent {
		if _, err := os.Stat(p); err == nil {
			path = p
			break
		}
	}
	if path == "" || len(keys) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), getentTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append([]string{database}, keys...)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	out, err := cmd.Output()
	const notFound = 2
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != notFound) {
		return nil, fmt.Errorf("getent %s: %w", database, err)
	}
	for line := range bytes.Lines(out) {
		if e, ok := parseEntry(strings.TrimSuffix(string(line), "\n"), fields); ok {
			entries = append(entries, e)
		}
	}
	return entries, nil
}
