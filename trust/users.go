package trust

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// everybody stands for all users in a list.
const everybody = "*"

// Users says who may connect to a daemon and who is trusted. The lists have
// names of users, "@" and the name of a group, and "*" for everybody; a user
// without a name is his number. The zero value lets nobody in.
type Users struct {
	Trusted []string // "trusted-users"; they may always connect
	Allowed []string // "allowed-users"
	// BuildUsersGroup is the group that builds run as ("build-users-group"). Who has it as
	// his group may never connect, so that no build can.
	BuildUsersGroup string
	// Accounts is where names come from; nil is this machine.
	Accounts Accounts
}

// DefaultUsers is who may do what unless a configuration says otherwise.
func DefaultUsers() Users {
	return Users{Trusted: []string{"root"}, Allowed: []string{everybody}}
}

// Accounts knows the names of users and groups. An error means that it could not
// tell, which is not the same as that there is none.
type Accounts interface {
	// UserName is the name of a user, "" if he has none.
	UserName(uid uint32) (string, error)
	// GroupName is the name of a group, "" if it has none.
	GroupName(gid uint32) (string, error)
	// IsListed tells whether a user is listed as a member of one of the groups;
	// groups that do not exist have no members.
	IsListed(user string, groups []string) (bool, error)
}

// Decision is what Users say about somebody who is allowed to connect.
type Decision struct {
	Name    string // of the user, or his number
	Trusted bool
}

// ErrNotAllowed is the cause of the error about a user who may not connect.
var ErrNotAllowed = errors.New("not allowed to connect")

// NotAllowedError says who may not connect.
type NotAllowedError struct{ User string }

func (e *NotAllowedError) Error() string {
	return fmt.Sprintf("user '%s' is not allowed to connect to the Nix daemon", e.User)
}

// Unwrap makes it an ErrNotAllowed.
func (e *NotAllowedError) Unwrap() error { return ErrNotAllowed }

// Decide judges the user and group of a process, as the kernel vouches for them.
// It belongs to its group as the process has it, and to the groups that list its
// user. The error is a *[NotAllowedError], or that names could not be looked
// up, in which case nobody gets in.
func (u Users) Decide(uid, gid uint32) (Decision, error) {
	accounts := u.Accounts
	if accounts == nil {
		accounts = System()
	}
	user, err := nameOf(accounts.UserName, uid)
	if err != nil {
		return Decision{}, fmt.Errorf("looking up user %d: %w", uid, err)
	}
	group, err := nameOf(accounts.GroupName, gid)
	if err != nil {
		return Decision{}, fmt.Errorf("looking up group %d: %w", gid, err)
	}
	if u.BuildUsersGroup != "" && group == u.BuildUsersGroup {
		return Decision{}, &NotAllowedError{User: user}
	}
	trusted, err := matches(accounts, user, group, u.Trusted)
	if err != nil {
		return Decision{}, err
	}
	if !trusted {
		allowed, err := matches(accounts, user, group, u.Allowed)
		if err != nil {
			return Decision{}, err
		}
		if !allowed {
			return Decision{}, &NotAllowedError{User: user}
		}
	}
	return Decision{Name: user, Trusted: trusted}, nil
}

func nameOf(lookup func(uint32) (string, error), id uint32) (string, error) {
	name, err := lookup(id)
	if err == nil && name == "" {
		name = strconv.FormatUint(uint64(id), 10)
	}
	return name, err
}

// matches tells whether a list names a user. What is listed as members of groups
// is looked up last, as that is the dearest.
func matches(accounts Accounts, user, group string, list []string) (bool, error) {
	if slices.Contains(list, everybody) || slices.Contains(list, user) {
		return true, nil
	}
	var groups []string
	for _, entry := range list {
		name, isGroup := strings.CutPrefix(entry, "@")
		if isGroup && name == group {
			return true, nil
		}
		if isGroup && name != "" {
			groups = append(groups, name)
		}
	}
	if len(groups) == 0 {
		return false, nil
	}
	listed, err := accounts.IsListed(user, groups)
	if err != nil {
		return false, fmt.Errorf("looking up the members of %s: %w", strings.Join(groups, ", "), err)
	}
	return listed, nil
}
