package trust

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const passwd = `# users
root:x:0:0:root:/root:/bin/sh
broken line
+nis::::::
alice:x:1000:100:Alice:/home/alice:/bin/sh
bob:x:1001:1001::/home/bob:/bin/sh
toor:x:0:0:second name of root:/root:/bin/sh
carol:x:1002:100:::/bin/sh:extra
`

const group = `root:x:0:
users:x:100:
wheel:x:10:alice,bobby
wheel:x:11:bob
nixbld:x:30000:nixbld1,nixbld2
admins:x:50:bob,
1000:x:77:bob
`

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func files(t *testing.T) Files {
	return Files{Passwd: write(t, "passwd", passwd), Group: write(t, "group", group)}
}

func TestDecide(t *testing.T) {
	accounts := files(t)
	const nobody = -1
	for name, c := range map[string]struct {
		trusted, allowed string
		uid, gid         uint32
		user             string
		want             int // 0 not trusted, 1 trusted, nobody
	}{
		"root by default":              {"root", "*", 0, 0, "root", 1},
		"user by default":              {"root", "*", 1000, 100, "alice", 0},
		"unknown user by default":      {"root", "*", 4711, 4711, "4711", 0},
		"nobody is allowed":            {"", "", 0, 0, "root", nobody},
		"allowed by name":              {"root", "alice", 1000, 100, "alice", 0},
		"not allowed":                  {"root", "alice", 1001, 1001, "bob", nobody},
		"part of a name":               {"root", "alic lice alice2", 1000, 100, "alice", nobody},
		"trusted need not be allowed":  {"alice", "", 1000, 100, "alice", 1},
		"everybody trusted":            {"*", "", 4711, 4711, "4711", 1},
		"primary group":                {"@users", "", 1000, 100, "alice", 1},
		"group of the process":         {"@users", "*", 1001, 100, "bob", 1},
		"listed in a group":            {"@wheel", "*", 1000, 1000, "alice", 1},
		"part of a member's name":      {"@wheel", "*", 1001, 1001, "bob", 0},
		"listed, second group":         {"@nobody @admins", "*", 1001, 1001, "bob", 1},
		"empty member":                 {"@admins", "*", 4711, 4711, "4711", 0},
		"group that does not exist":    {"@nogroup", "@nogroup", 1000, 100, "alice", nobody},
		"no group at all":              {"@", "*", 1000, 100, "alice", 0},
		"number of a nameless user":    {"4711", "*", 4711, 4711, "4711", 1},
		"number of a nameless group":   {"@4711", "*", 1000, 4711, "alice", 1},
		"number of a named user":       {"1000", "*", 1000, 100, "alice", 0},
		"group that is a number":       {"@1000", "*", 1001, 1001, "bob", 1},
		"user as group":                {"@alice", "*", 1000, 100, "alice", 0},
		"group as user":                {"users", "*", 1000, 100, "alice", 0},
		"line with too many fields":    {"carol", "*", 1002, 100, "1002", 0},
		"build user":                   {"*", "*", 30001, 30000, "30001", nobody},
		"member listed in build group": {"root", "*", 1000, 30000, "alice", nobody},
		"star in a name":               {"a*", "al*", 1000, 100, "alice", nobody},
	} {
		u := Users{Trusted: strings.Fields(c.trusted), Allowed: strings.Fields(c.allowed), BuildUsersGroup: "nixbld", Accounts: accounts}
		d, err := u.Decide(c.uid, c.gid)
		if c.want == nobody {
			var refused *NotAllowedError
			if !errors.As(err, &refused) || !errors.Is(err, ErrNotAllowed) || refused.User != c.user {
				t.Errorf("%s: %+v, %v; want to refuse %s", name, d, err, c.user)
			}
			continue
		}
		if err != nil || d.Name != c.user || d.Trusted != (c.want == 1) {
			t.Errorf("%s: %+v, %v; want %s, trusted %v", name, d, err, c.user, c.want == 1)
		}
	}
}

func TestDecideDefaults(t *testing.T) {
	if _, err := (Users{Accounts: files(t)}).Decide(0, 0); !errors.Is(err, ErrNotAllowed) {
		t.Errorf("the zero value let root in: %v", err)
	}
	u := DefaultUsers() // with the accounts of this machine
	if d, err := u.Decide(0, 0); err != nil || !d.Trusted {
		t.Errorf("root: %+v, %v", d, err)
	}
}

// Who cannot be looked up is not let in.
func TestDecideErrors(t *testing.T) {
	good := files(t)
	unreadable := t.TempDir() // a directory
	for name, a := range map[string]Files{
		"passwd": {Passwd: unreadable, Group: good.Group}, "group": {Passwd: good.Passwd, Group: unreadable},
		"endless line": {Passwd: good.Passwd, Group: write(t, "group", strings.Repeat("x", maxLine+1))},
	} {
		u := Users{Trusted: []string{"root"}, Allowed: []string{"@wheel"}, Accounts: a}
		if d, err := u.Decide(1000, 100); err == nil || errors.Is(err, ErrNotAllowed) {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
	none := Files{Passwd: filepath.Join(unreadable, "none"), Group: filepath.Join(unreadable, "none")}
	if d, err := (Users{Allowed: []string{"*"}, Accounts: none}).Decide(0, 0); err != nil || d.Name != "0" {
		t.Errorf("no files: %+v, %v", d, err)
	}
}

const fakeGetent = `#!/bin/sh
found=2
for key; do
	case $key in
	passwd|group) database=$key; continue;;
	5000) entry=passwd:ldapuser:x:5000:5000:::;;
	6000) entry=group:ldapgroup:x:6000:;;
	staff) entry=group:staff:x:60:alice,ldapuser;;
	60) entry=group:staff:x:60:alice,ldapuser;;
	fail) exit 3;;
	*) continue;;
	esac
	[ "${entry%%:*}" = "$database" ] && echo "${entry#*:}" && found=0
done
exit $found
`

func TestSystemAccounts(t *testing.T) {
	getent := write(t, "getent", fakeGetent)
	if err := os.Chmod(getent, 0o755); err != nil {
		t.Fatal(err)
	}
	all := system{Files: files(t), nss: write(t, "nss", "passwd: files sss # x\ngroup:\tfiles [SUCCESS=merge] systemd\n"), getent: []string{"/none", getent}}
	only := all
	only.nss = write(t, "nss", "#passwd: ldap\npasswd: files\ngroup: files [NOTFOUND=return] compat\nhosts: files dns\n")
	none := all
	none.getent = []string{"/none"}
	for name, c := range map[string]struct {
		accounts Accounts
		trusted  string
		uid, gid uint32
		want     Decision
	}{
		"user from elsewhere":            {all, "ldapuser", 5000, 100, Decision{"ldapuser", true}},
		"group from elsewhere":           {all, "@ldapgroup", 1000, 6000, Decision{"alice", true}},
		"listed elsewhere":               {all, "@nogroup @staff", 5000, 5000, Decision{"ldapuser", true}},
		"listed elsewhere, user of here": {all, "@staff", 1000, 100, Decision{"alice", true}},
		"listed elsewhere, by number":    {all, "@60", 1000, 100, Decision{"alice", false}},
		"an option for getent":           {all, "@-x @--help", 1000, 100, Decision{"alice", false}},
		"nowhere":                        {all, "@staff", 7000, 7000, Decision{"7000", false}},
		"only files are asked":           {only, "ldapuser @staff", 5000, 5000, Decision{"5000", false}},
		"no getent":                      {none, "ldapuser @staff", 5000, 5000, Decision{"5000", false}},
	} {
		u := Users{Trusted: strings.Fields(c.trusted), Allowed: []string{"*"}, Accounts: c.accounts}
		if d, err := u.Decide(c.uid, c.gid); err != nil || d != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, d, err, c.want)
		}
	}
	u := Users{Trusted: []string{"@fail"}, Allowed: []string{"*"}, Accounts: all}
	if d, err := u.Decide(1000, 100); err == nil || !strings.Contains(err.Error(), "getent group") {
		t.Errorf("getent fails: %+v, %v", d, err)
	}
}
