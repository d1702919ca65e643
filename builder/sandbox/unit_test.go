package sandbox

import (
	"strings"
	"testing"
)

func TestFindCgroup(t *testing.T) {
	for _, test := range []struct{ mounts, own, want string }{
		{"cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "0::/system.slice/x.service\n", "/sys/fs/cgroup/system.slice/x.service"},
		{"cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n", "3:cpu:/a\n0::/\n", "/sys/fs/cgroup/unified"},
		{"cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n", "3:cpu:/a\n0::/\n", ""},
		{"cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "3:cpu:/a\n", ""},
		{"", "", ""},
		{"x\n", "0::/\n", ""},
	} {
		got, err := findCgroup(test.mounts, test.own)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%q, %q: %q, %v", test.mounts, test.own, got, err)
		}
	}
}

func TestAccountsAreScanned(t *testing.T) {
	const group = "a:x:1:m,n\n:x:2:\nshort:x\nb::3:\na:x:4:o\n"
	for name, want := range map[string]string{"a": "a:x:1:m,n", "b": "b::3:", "short": "", "": ":x:2:", "c": ""} {
		fields, err := scan(strings.NewReader(group), name, 4)
		if got := strings.Join(fields, ":"); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
}

func TestSplit(t *testing.T) {
	mounts := []Mount{
		{Kind: Own, Source: "/s", Target: "/nix/store"},
		{Source: "/a", Target: "/nix/store/a"},
		{Source: "/b", Target: "/nix/store/b"},
		{Source: "/c", Target: "/nix/store/b/in/c"},
		{Source: "/cover/d", Target: "/nix/store/d"},
		{Kind: File, Target: "/nix/store/file"},
		{Kind: Own, Source: "/o", Target: "/nix/store/own"},
		{Source: "/e", Target: "/nix/stores"},
	}
	early, late := split(mounts, "/cover")
	targets := func(mounts []Mount) string {
		var s []string
		for _, m := range mounts {
			s = append(s, strings.TrimPrefix(m.Target, "/nix/store"))
		}
		return strings.Join(s, " ")
	}
	if e, l := targets(early), targets(late); e != " /b /b/in/c /d /file /own s" || l != "/a" {
		t.Errorf("early %q, late %q", e, l)
	}
}

func TestSizes(t *testing.T) {
	for size, ok := range map[string]bool{
		"": true, "0": true, "50%": true, "1g": true, "20M": true, "x": false, "1gg": false, "%": false, "1m,mode=0": false, "-1": false, "1 ": false,
	} {
		if err := checkSize(size); (err == nil) != ok {
			t.Errorf("%q: %v", size, err)
		}
	}
}

func TestMapsOfLoader(t *testing.T) {
	const maps = `00400000-00401000 r--p 00000000 fe:00 1 /usr/bin/strata
7f0000000000-7f0000001000 r-xp 00000000 fe:00 2 /usr/lib/x/libc.so.6
7f0000002000-7f0000003000 rw-p 00000000 00:00 0
7f0000004000-7f0000005000 r--p 00000000 fe:00 3 /usr/lib/ld/ld-linux.so.2
7ffc00000000-7ffc00001000 rw-p 00000000 00:00 0 [stack]
`
	l := parseMaps(maps, 0x7f0000004000)
	if l.interpreter != "/usr/lib/ld/ld-linux.so.2" || strings.Join(l.dirs, " ") != "/usr/lib/x /usr/lib/ld" {
		t.Errorf("%+v", l)
	}
}

func TestPersona(t *testing.T) {
	for _, test := range []struct {
		platform string
		linux26  bool
		want     uintptr
	}{
		{"armv7l-linux", false, addrNoRandomize | perLinux32},
		{"armv6l-linux", true, addrNoRandomize | perLinux32},
		{"x86_64-linux", true, addrNoRandomize | uname26},
		{"aarch64-linux", true, addrNoRandomize},
		{"builtin", false, addrNoRandomize},
	} {
		if got := persona(test.platform, test.linux26); got != test.want {
			t.Errorf("%s, %t: %#x, want %#x", test.platform, test.linux26, got, test.want)
		}
	}
}
