package remote

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseMachines(t *testing.T) {
	file := filepath.Join(t.TempDir(), "machines")
	if err := os.WriteFile(file, []byte("# mine\nssh://c aarch64-linux # slow\n@/nonexistent\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"":                   "",
		" ; \n#x\n":          "",
		"ssh://a":            "ssh://a?max-connections=1 [x86_64-linux] 1 1 [] []",
		"a":                  "ssh://a?max-connections=1 [x86_64-linux] 1 1 [] []",
		"me@a - - - - - - -": "ssh://me@a?max-connections=1 [x86_64-linux] 1 1 [] []",
		"/srv/store":         "local?root=/srv/store [x86_64-linux] 1 1 [] []",
		"ssh-ng://a i686-linux,x86_64-linux /key 4 2.5 kvm,benchmark benchmark c3NoLWVkMjU1MTkgQQ==": "ssh-ng://a?base64-ssh-public-host-key=c3NoLWVkMjU1MTkgQQ%3D%3D&max-connections=1&ssh-key=/key [i686-linux x86_64-linux] 4 2.5 [kvm benchmark] [benchmark]",
		"ssh://a x - 0 0; daemon?x=y": "ssh://a?max-connections=1 [x] 0 1 [] []\nunix://?x=y [x86_64-linux] 1 1 [] []",
		"b;@ " + file:                 "ssh://b?max-connections=1 [x86_64-linux] 1 1 [] []\nssh://c?max-connections=1 [aarch64-linux] 1 1 [] []",
	} {
		machines, err := ParseMachines(in, "x86_64-linux")
		var got []string
		for _, m := range machines {
			got = append(got, fmt.Sprint(m.Store, " ", m.Systems, " ", m.MaxJobs, " ", m.Speed, " ", m.Supported, " ", m.Mandatory))
		}
		if strings.Join(got, "\n") != want || err != nil {
			t.Errorf("%q:\n%s\nnot\n%s\n(%v)", in, strings.Join(got, "\n"), want, err)
		}
	}
}

func TestBadMachines(t *testing.T) {
	loop := filepath.Join(t.TempDir(), "loop")
	if err := os.WriteFile(loop, []byte("@"+loop), 0o600); err != nil {
		t.Fatal(err)
	}
	for in, why := range map[string]string{
		"ssh://a - - x":                     "'x' is not a number of jobs",
		"ssh://a - - -1":                    "'-1' is not a number of jobs",
		"ssh://a - - 1 fast":                "'fast' is not a speed",
		"ssh://a - - 1 -2":                  "'-2' is not a speed",
		"ssh://a - - 1 NaN":                 "'NaN' is not a speed",
		"ssh://a - - 1 1 - - k*y":           "is not the base64 of a host key",
		"://":                               "",
		"@" + loop:                          "include each other",
		strings.Repeat("a;", maxMachines+1): "more than",
	} {
		var bad *MachineError
		if m, err := ParseMachines(in, "x"); !errors.As(err, &bad) || !strings.Contains(err.Error(), why) {
			t.Errorf("%.100q gives %d machines, %v", in, len(m), err)
		}
	}
}

func TestSuits(t *testing.T) {
	m := Machine{Systems: []string{"a", "b"}, Supported: []string{"kvm"}, Mandatory: []string{"gpu"}}
	for _, c := range []struct {
		system, features string
		suits            bool
	}{
		{"a", "gpu", true}, {"b", "gpu kvm", true}, {"builtin", "gpu", true},
		{"c", "gpu", false}, {"a", "", false}, {"a", "kvm", false}, {"a", "gpu tape", false},
	} {
		if got := m.Suits(Need{c.system, strings.Fields(c.features)}); got != c.suits {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func FuzzParseMachines(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "@") {
			return // no files of this machine
		}
		machines, err := ParseMachines(text, "x86_64-linux")
		for _, m := range machines {
			if len(m.Systems) == 0 || m.MaxJobs < 0 || m.MaxJobs > maxJobs || !(m.Speed > 0) {
				t.Errorf("%+v", m)
			}
		}
		var bad *MachineError
		if err != nil && !errors.As(err, &bad) {
			t.Error(err)
		}
	})
}
