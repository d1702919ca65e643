package trust

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestNamesAreRememberedAsLongAsTheFileIsTheSame(t *testing.T) {
	file := filepath.Join(t.TempDir(), "passwd")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	f := &nameFile{path: file}
	looked := 0
	want := func(id uint32, name string, times int) {
		t.Helper()
		looked = 0
		got, err := f.name(id, func(id uint32) (string, error) { looked++; return Files{Passwd: file}.UserName(id) })
		if got != name || err != nil || looked != times {
			t.Errorf("%d is '%s' after %d looks at the file, %v; want '%s' after %d", id, got, looked, err, name, times)
		}
	}
	put("ada:x:7:7:::\n")
	want(7, "ada", 1)
	want(7, "ada", 0)
	want(8, "", 1)
	want(8, "", 0)
	put("bob:x:8:8:::\n")
	want(7, "", 1)
	want(8, "bob", 1)
	want(8, "bob", 0)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	want(8, "", 1)
	want(8, "", 1)
	put("cyd:x:8:8:::\n")
	want(8, "cyd", 1)

	broken := errors.New("broken")
	if _, err := f.name(9, func(uint32) (string, error) { return "", broken }); !errors.Is(err, broken) {
		t.Errorf("the error of a look became %v", err)
	}
	want(9, "", 1) // which is not remembered

	// One that has just changed may change again without a sign of it.
	f.settling = time.Hour
	want(8, "cyd", 1)
	want(8, "cyd", 1)
}

func TestOneFileForManyIDs(t *testing.T) {
	f := &nameFile{path: "/dev/null"}
	for id := range uint32(3 * maxNames) {
		if name, err := f.name(id, func(uint32) (string, error) { return "x", nil }); name != "x" || err != nil {
			t.Fatal(id, name, err)
		}
		if len(f.names) > maxNames {
			t.Fatalf("%d names are remembered", len(f.names))
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DefaultUsers().Decide(0, 0); err != nil {
			b.Fatal(err)
		}
	}
}
