package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strings"
)

// group is a line of /etc/group.
type group struct {
	gid     uint32
	members []string
}

// account is a line of /etc/passwd, as far as it matters.
type account struct {
	name     string
	uid, gid uint32
}

// findGroup finds a group in /etc/group; or, where groups come from somewhere else
// too (LDAP, systemd), by asking getent.
func findGroup(ctx context.Context, name string) (*group, error) {
	fields, err := lookup(ctx, "group", name, 4)
	if err != nil {
		return nil, fmt.Errorf("the group '%s' specified in 'build-users-group' does not exist: %w", name, err)
	}
	gid, err := number("group "+name, fields[2])
	if err != nil {
		return nil, err
	}
	members := strings.Split(fields[3], ",")
	return &group{gid, slices.DeleteFunc(members, func(m string) bool { return m == "" })}, nil
}

// findAccount finds a user in the same way.
func findAccount(ctx context.Context, name string) (*account, error) {
	fields, err := lookup(ctx, "passwd", name, 4)
	if err != nil {
		return nil, err
	}
	uid, err := number("user "+name, fields[2])
	if err != nil {
		return nil, err
	}
	gid, err := number("group of user "+name, fields[3])
	return &account{name, uid, gid}, err
}

var errNoEntry = errors.New("no entry")

// lookup finds the line of a database whose first field is name, and returns its
// fields, at least min of them.
func lookup(ctx context.Context, database, name string, min int) ([]string, error) {
	if name == "" || strings.ContainsAny(name, ":\n\x00") || name[0] == '-' {
		return nil, fmt.Errorf("%q is no name", name)
	}
	f, err := os.Open("/etc/" + database)
	if err == nil {
		defer f.Close()
		var fields []string
		if fields, err = scan(f, name, min); err == nil {
			return fields, nil
		}
	}
	out, gerr := exec.CommandContext(ctx, "getent", database, name).Output()
	if gerr != nil {
		return nil, err
	}
	return scan(strings.NewReader(string(out)), name, min)
}

func scan(r io.Reader, name string, min int) ([]string, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20) // groups may have many members
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if fields[0] == name && len(fields) >= min {
			return fields, nil
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return nil, errNoEntry
}

// supplementary are the groups of an account but the one that its builders have as
// their first.
func supplementary(a *account, primary uint32) ([]uint32, error) {
	u := user.User{Username: a.name, Gid: fmt.Sprint(a.gid)}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	var groups []uint32
	for _, id := range ids {
		gid, err := number("group of user "+a.name, id)
		if err != nil {
			return nil, err
		}
		if gid != primary && !slices.Contains(groups, gid) {
			groups = append(groups, gid)
		}
	}
	return groups, nil
}
