package nar

import (
	"bytes"
	"os"
	"testing"
)

func TestFramesMakeTheArchiveThatDumpMakes(t *testing.T) {
	dir := t.TempDir()
	for _, mode := range []os.FileMode{0o444, 0o555} {
		for _, contents := range []string{"", "x", "12345678", "123456789"} {
			path := dir + "/f"
			os.Remove(path)
			if err := os.WriteFile(path, []byte(contents), mode); err != nil {
				t.Fatal(err)
			}
			before, after := FileFrame(mode&0o100 != 0, int64(len(contents)))
			if got, want := string(before)+contents+string(after), dumped(t, path); got != want {
				t.Errorf("%v %q: %q, want %q", mode, contents, got, want)
			}
		}
	}
	if err := os.Symlink("/some/where", dir+"/l"); err != nil {
		t.Fatal(err)
	}
	if got, want := string(SymlinkArchive("/some/where")), dumped(t, dir+"/l"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func dumped(t *testing.T, path string) string {
	t.Helper()
	var b bytes.Buffer
	if err := Dump(t.Context(), &b, path); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
