package mount

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseEntry(t *testing.T) {
	tests := []struct {
		line string
		want Entry
	}{
		{
			"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard",
			Entry{ID: 27, Parent: 1, Device: Device{254, 0}, Root: "/", Target: "/", VFSOptions: "rw,relatime", FSType: "ext4", Source: "/dev/vda", Options: "rw,discard"},
		},
		{ // propagation fields, in any number
			"29 26 0:26 /a\\040b /dev/pts\\011x rw shared:3 master:1 propagate_from:2 - fuse.x s\\040p rw",
			Entry{ID: 29, Parent: 26, Device: Device{0, 26}, Root: "/a b", Target: "/dev/pts\tx", VFSOptions: "rw", FSType: "fuse.x", Source: "s p", Options: "rw"},
		},
		{ // an empty source
			"1 1 0:1 / /m rw - tmpfs  rw,size=1k",
			Entry{ID: 1, Parent: 1, Device: Device{0, 1}, Root: "/", Target: "/m", VFSOptions: "rw", FSType: "tmpfs", Options: "rw,size=1k"},
		},
		{ // a mount point whose directory was removed
			"1 1 0:1 / /m//deleted rw - tmpfs t rw",
			Entry{ID: 1, Parent: 1, Device: Device{0, 1}, Root: "/", Target: "/m", Deleted: true, VFSOptions: "rw", FSType: "tmpfs", Source: "t", Options: "rw"},
		},
		{ // options of the file system stay escaped
			"1 1 0:1 / /m rw - overlay overlay rw,lowerdir=/a\\040b",
			Entry{ID: 1, Parent: 1, Device: Device{0, 1}, Root: "/", Target: "/m", VFSOptions: "rw", FSType: "overlay", Source: "overlay", Options: `rw,lowerdir=/a\040b`},
		},
	}
	for _, tt := range tests {
		got, err := ParseEntry(tt.line)
		if err != nil {
			t.Errorf("%q: %v", tt.line, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%q: %s", tt.line, diff)
		}
	}
}

func TestBadTables(t *testing.T) {
	good := "27 1 254:0 / / rw - ext4 /dev/vda rw\n"
	for name, bad := range map[string]string{
		"empty line": "\n", "no separator": "27 1 254:0 / / rw ext4 /dev/vda rw",
		"few fields": "27 1 254:0 / / - ext4 x rw", "no options": "27 1 254:0 / / rw - ext4 x",
		"number": "x 1 254:0 / / rw - ext4 x rw", "parent": "1 -1 254:0 / / rw - ext4 x rw",
		"device": "1 1 254 / / rw - ext4 x rw", "overflow": "1 1 4294967296:0 / / rw - ext4 x rw",
	} {
		t.Run(name, func(t *testing.T) {
			var n int
			var last error
			for _, err := range Entries(strings.NewReader(good + bad)) {
				n++
				last = err
			}
			var te *TableError
			if n != 2 || !errors.As(last, &te) || te.Line != 2 {
				t.Errorf("%d entries, %v", n, last)
			}
		})
	}
	endless := io.MultiReader(strings.NewReader(good), endlessReader{})
	for _, err := range Entries(endless) {
		if err != nil && !errors.Is(err, ErrLineTooLong) {
			t.Error(err)
		}
	}
}

type endlessReader struct{}

func (endlessReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestLineLongerThanAScannersBuffer(t *testing.T) {
	long := strings.Repeat(",lowerdir+=/"+strings.Repeat("x", 4000), 500)
	table := "1 1 0:1 / /m rw - overlay overlay rw" + long + "\n2 1 0:1 / /n rw - overlay overlay rw"
	var targets []string
	for e, err := range Entries(strings.NewReader(table)) {
		if err != nil {
			t.Fatal(err)
		}
		targets = append(targets, e.Target)
	}
	if strings.Join(targets, " ") != "/m /n" {
		t.Errorf("%q", targets)
	}
}

func TestChainFollowsParents(t *testing.T) {
	// Listed in the order of their ids; 9 was moved beneath 7.
	here := []Entry{{ID: 5, Parent: 1}, {ID: 7, Parent: 9}, {ID: 9, Parent: 5}, {ID: 11, Parent: 3}}
	var ids []uint64
	for _, e := range chain(here, 7) {
		ids = append(ids, e.ID)
	}
	if diff := cmp.Diff([]uint64{5, 9, 7}, ids); diff != "" {
		t.Error(diff)
	}
	if got := chain(here, 4); got != nil {
		t.Errorf("unknown top: %v", got)
	}
	// The table is not ours to trust: a circle must end.
	circle := []Entry{{ID: 1, Parent: 2}, {ID: 2, Parent: 1}}
	if got := chain(circle, 1); len(got) > 3 {
		t.Errorf("circle: %v", got)
	}
}

func TestOwnTableAndRoot(t *testing.T) {
	list, err := ReadTable(nil)
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	stack, err := StackAt("/")
	if err != nil {
		t.Fatal(err)
	}
	id, err := Identify("/")
	if err != nil {
		t.Fatal(err)
	}
	// In a chroot the root need not be a mount.
	if id.Root && (len(stack) == 0 || stack[len(stack)-1].ID != id.Mount) {
		t.Errorf("root is %v, stack %v", id, stack)
	}
	if stack, err := StackAt(t.TempDir()); err != nil || len(stack) != 0 {
		t.Errorf("a plain directory: %v %v", stack, err)
	}
	if _, err := StackAt("/nonexistent/dir"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func FuzzEntries(f *testing.F) {
	f.Add("29 26 0:26 /a\\040b /dev/pts rw shared:3 master:1 - fuse.x s\\040p rw\n")
	f.Add("1 1 0:1 / /m//deleted rw - tmpfs  rw,size=1k")
	f.Add("1 1 0:1 / /\\400\\04\\ rw - a b c d - e\n\n")
	f.Fuzz(func(t *testing.T, table string) {
		for e, err := range Entries(strings.NewReader(table)) {
			var te *TableError
			if err != nil && !errors.As(err, &te) {
				t.Fatalf("untyped error %v", err)
			}
			if err == nil && len(e.Target) > len(table) {
				t.Fatal("unescaping made it longer")
			}
		}
	})
}

func FuzzUnescape(f *testing.F) {
	for _, s := range []string{`a\040b`, `\`, `\1`, `\777`, `\134040`, "plain"} {
		f.Add(s)
	}
	escape := func(s string) string {
		return strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`, "#", `\043`).Replace(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		Unescape(s)
		if got := Unescape(escape(s)); got != s {
			t.Errorf("%q came back as %q", s, got)
		}
	})
}
