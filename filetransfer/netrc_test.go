package filetransfer

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

func TestParseNetrc(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want netrc // nil: an error
	}{
		"nothing":        {"", netrc{}},
		"a line":         {"machine a login b password c", netrc{{"a", "b", "c"}}},
		"many lines":     {"machine\na\r\n\tlogin b\n\npassword\n c\n", netrc{{"a", "b", "c"}}},
		"two":            {"machine a login b password c\nmachine A.Example login d", netrc{{"a", "b", "c"}, {"a.example", "d", ""}}},
		"default":        {"machine a password c default login d password e", netrc{{"a", "", "c"}, {"", "d", "e"}}},
		"quotes":         {`machine a login "b \"c\" \\" password "# d\te"`, netrc{{"a", `b "c" \`, "# d\te"}}},
		"empty quotes":   {`machine a login "" password c`, netrc{{"a", "", "c"}}},
		"comments":       {"# machine x login y\nmachine a # of ours\nlogin b password c#d", netrc{{"a", "b", "c#d"}}},
		"account":        {"machine a login b account z password c", netrc{{"a", "b", "c"}}},
		"words unknown":  {"machine a port 80 login b", netrc{{"a", "b", ""}}},
		"macro":          {"machine a login b password c\nmacdef init\nmachine x login y\nbye\n\nmachine d login e", netrc{{"a", "b", "c"}, {"d", "e", ""}}},
		"macro at end":   {"macdef init\nmachine x", netrc{}},
		"macro, no name": {"macdef", netrc{}},
		"no machine":     {"login b password c", netrc{}},
		"in capitals":    {"MACHINE a LOGIN b", netrc{{"a", "b", ""}}},

		"nothing after machine":  {"machine", nil},
		"empty machine":          {`machine "" login a`, nil},
		"nothing after login":    {"machine a login", nil},
		"nothing after password": {"machine a login b password # c", nil},
		"open quotes":            {"machine a login \"b\npassword c", nil},
		"open quotes at end":     {`machine a login "b`, nil},
		"escaped end":            {`machine a login "b\`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseNetrc([]byte(c.text))
			if (err != nil) != (c.want == nil) || err == nil && len(got)+len(c.want) > 0 && !reflect.DeepEqual(got, c.want) {
				t.Errorf("%q, %v", got, err)
			}
			if err != nil && !strings.Contains(err.Error(), "line ") {
				t.Error(err)
			}
		})
	}
}

func TestFindAccount(t *testing.T) {
	n := netrc{{"a", "one", "1"}, {"a", "two", "2"}, {"b", "", "token"}, {"c", "", ""}, {"", "any", "thing"}, {"late", "x", "y"}}
	for name, c := range map[string]struct {
		host, login string
		want        account
		ok          bool
	}{
		"the first":         {"a", "", account{"a", "one", "1"}, true},
		"in capitals":       {"A", "", account{"a", "one", "1"}, true},
		"by login":          {"a", "two", account{"a", "two", "2"}, true},
		"no such login":     {"a", "three", account{}, false},
		"without login":     {"b", "", account{"b", "", "token"}, true},
		"our login":         {"b", "me", account{"b", "me", "token"}, true},
		"nothing in it":     {"c", "", account{"c", "", ""}, false},
		"default":           {"z", "", account{"", "any", "thing"}, true},
		"after the default": {"late", "", account{"", "any", "thing"}, true},
	} {
		if got, ok := n.find(c.host, c.login); got != c.want || ok != c.ok {
			t.Errorf("%s: %+v, %v", name, got, ok)
		}
	}
}

func TestNetrcFile(t *testing.T) {
	within(t, func(t *testing.T, n *network) {
		var last string
		n.serve("a:80", okSeen(&last))
		file := writeNetrc(t, "machine a login one password 1")
		c := n.client(Options{NetrcFile: file, Attempts: 3})
		ask := func(user, want string) {
			t.Helper()
			_, _, err := get(t, c, &Request{URL: parsed(t, "http://"+user+"a/x")})
			if err != nil || last != want {
				t.Errorf("%q arrived instead of %q: %v", last, want, err)
			}
		}
		ask("", "one:1")
		ask("me:mine@", "me:mine")
		ask("one@", "one:1")
		ask("two@", "two:")
		if err := os.WriteFile(file, []byte("machine a login another password 2"), 0o600); err != nil {
			t.Fatal(err)
		}
		ask("", "another:2")
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		ask("", "")
		if err := os.WriteFile(file, []byte("machine a\nlogin \"x"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := get(t, c, &Request{URL: parsed(t, "http://a/x")})
		if !isType[*TransferError](err) || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "line 2") {
			t.Error(err)
		}
	})
}

func FuzzNetrc(f *testing.F) {
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := parseNetrc(text)
		if err != nil {
			return
		}
		for _, a := range n {
			if a.host != strings.ToLower(a.host) {
				t.Errorf("host %q", a.host)
			}
		}
		n.find("a", "")
	})
}
