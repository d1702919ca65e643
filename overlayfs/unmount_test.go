package overlayfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestBusyMountNamesItsUsers(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		sh, err := os.ReadFile("/bin/sh")
		if err != nil {
			t.Fatal(err)
		}
		b.write("lower1/bin/prog", string(sh))
		b.write("lower1/dir/f", "data")
		if err := os.Chmod(b.path("lower1/bin/prog"), 0o755); err != nil {
			t.Fatal(err)
		}
		merged := b.path("merged")
		tests := []struct{ name, dir, script, uses, path string }{
			{"cwd", "merged/dir", "echo ready; cat", "cwd", merged + "/dir"},
			{"file", ".", "exec 9<" + merged + "/dir/f; echo ready; cat", "fd 9", merged + "/dir/f"},
			{"directory", ".", "exec 9<" + merged + "; echo ready; cat", "fd 9", merged},
			{"program", ".", "exec " + merged + "/bin/prog -c 'echo ready; read x'", "exe", merged + "/bin/prog"},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				m := b.mount(b.options())
				end := b.holdWith(tt.dir, tt.script)
				err := m.Unmount(t.Context(), UnmountOptions{})
				var busy *BusyError
				if !errors.As(err, &busy) || !errors.Is(err, unix.EBUSY) {
					t.Fatalf("%v", err)
				}
				if len(busy.Holders) == 0 {
					t.Fatalf("no holders: %v", err)
				}
				if h := busy.Holders[0]; h.Uses != tt.uses || h.Path != tt.path {
					t.Errorf("%v", h)
				}
				contains(t, err.Error(), fmt.Sprint(busy.Holders[0].PID), merged)
				b.want("still mounted", b.mounts(merged), "overlay")
				end()
				if err := m.Unmount(t.Context(), UnmountOptions{}); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
}

func TestBusyByMappedFileAndSubmount(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		b.write("lower1/f", "mapped")
		m := b.mount(b.options())
		f, err := os.Open(b.path("merged/f"))
		if err != nil {
			t.Fatal(err)
		}
		page, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		b.tmpfs("merged/sub")
		err = m.Unmount(t.Context(), UnmountOptions{})
		var busy *BusyError
		if !errors.As(err, &busy) || len(busy.Holders) != 1 || busy.Holders[0].Uses != "maps" || busy.Holders[0].PID != os.Getpid() {
			t.Fatalf("%v", err)
		}
		if len(busy.Submounts) != 1 || busy.Submounts[0] != b.path("merged/sub") {
			t.Errorf("submounts %q", busy.Submounts)
		}
		unix.Unmount(b.path("merged/sub"), 0)
		unix.Munmap(page)
		if err := m.Unmount(t.Context(), UnmountOptions{}); err != nil {
			t.Error(err)
		}
	})
}

func TestLazyUnmountLeavesUsersAlone(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		b.write("lower1/f", "x")
		m := b.mount(b.options())
		f, err := os.Open(b.path("merged/f"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := m.Unmount(t.Context(), UnmountOptions{Lazy: true}); err != nil {
			t.Fatal(err)
		}
		b.want("mounts", b.mounts(b.path("merged")), "")
		if n, err := f.Read(make([]byte, 1)); n != 1 {
			t.Errorf("the open file is dead: %v", err)
		}
		if state, err := m.Record.Recognise(); state != Gone {
			t.Errorf("%v %v", state, err)
		}
	})
}

func TestOnlyTheRecordedMountIsTakenDown(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		target := b.path("merged")
		m := b.mount(b.options())
		refused := func(want State, notMounted bool) {
			t.Helper()
			err := m.Unmount(t.Context(), UnmountOptions{Lazy: true})
			var se *StateError
			if !errors.As(err, &se) || se.State != want || errors.Is(err, ErrNotMounted) != notMounted {
				t.Errorf("want %v, got %v", want, err)
			}
		}
		// The record survives being written down.
		data, err := json.Marshal(m.Record)
		if err != nil {
			t.Fatal(err)
		}
		if m.Record, err = ParseRecord(data); err != nil {
			t.Fatal(err)
		}

		if err := unix.Mount("tmpfs", target, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		refused(Covered, false)
		b.want("both are there", b.mounts(target), "overlay tmpfs")
		unix.Unmount(target, 0)

		if err := unix.Mount(target, b.mkdir("elsewhere"), "", unix.MS_MOVE, ""); err != nil {
			t.Fatal(err)
		}
		refused(Moved, false)
		if err := unix.Mount(b.path("elsewhere"), target, "", unix.MS_MOVE, ""); err != nil {
			t.Fatal(err)
		}

		other := m.Record
		other.Boot = "another"
		if state, err := other.Recognise(); state != Foreign {
			t.Errorf("after a reboot: %v %v", state, err)
		}
		unix.Unmount(target, 0)
		refused(Gone, true)
		b.tmpfs("merged")
		refused(Foreign, true)
		b.want("the other one", b.mounts(target), "tmpfs")

		other = m.Record
		other.Namespace++
		if state, err := other.Recognise(); state != Elsewhere {
			t.Errorf("another namespace: %v %v", state, err)
		}
		other = m.Record
		other.Target = b.path("nope")
		if state, err := other.Recognise(); state != Gone {
			t.Errorf("without a target: %v %v", state, err)
		}
	})
}

// Without unique ids, a number that was reused for another mount must not pass.
func TestReusedMountIDIsNotOurs(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		m := b.mount(b.options())
		r := m.Record
		r.UniqueID = 0
		if state, err := r.Recognise(); state != Mounted {
			t.Errorf("by number, type and device: %v %v", state, err)
		}
		r.Device = "0:1"
		if state, err := r.Recognise(); state != Foreign {
			t.Errorf("another device: %v %v", state, err)
		}
	})
}

func TestReplaceSwitchesTheLowers(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		b.write("lower1/obj/f", "old")
		b.write("lower2/obj/f", "new")
		m := b.mount(b.options("lower1"))
		b.write("merged/mine", "kept")
		f, err := os.Open(b.path("merged/obj/f"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b.hold("merged/obj")
		n, err := Replace(t.Context(), m.Record, b.options("lower2"))
		if err != nil {
			t.Fatal(err)
		}
		b.want("obj", b.read("merged/obj/f"), "new")
		b.want("mine", b.read("merged/mine"), "kept")
		b.want("mounts", b.mounts(b.path("merged")), "overlay")
		if err := Verify(b.path("merged"), Expected{Lowers: []string{b.path("lower2")}, Upper: b.path("upper"), Record: &n.Record}); err != nil {
			t.Error(err)
		}
		buf := make([]byte, 3)
		if _, err := f.Read(buf); string(buf) != "old" {
			t.Errorf("the open file changed: %q %v", buf, err)
		}
		if state, _ := m.Record.Recognise(); state != Foreign {
			t.Errorf("the old record is %v", state)
		}
		if _, err := Replace(t.Context(), m.Record, b.options("lower1")); err == nil {
			t.Error("replaced a mount that is not the recorded one")
		}
		if err := n.Unmount(t.Context(), UnmountOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// The table may list the mounts of a stack in another order than they lie.
func TestInspectFollowsTheStackAndNotTheTable(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		first, second := b.options("lower1"), b.options("lower2")
		second.Upper, second.Work = b.mkdir("u2"), b.mkdir("w2")
		b.mount(first)
		if _, err := makeMount(t.Context(), second, true); err != nil {
			t.Fatal(err)
		}
		stack, err := Inspect(first.Target)
		if err != nil || len(stack) != 2 {
			t.Fatal(stack, err)
		}
		b.want("bottom", stack[0].Upper, second.Upper)
		b.want("top", stack[1].Upper, first.Upper)
	})
}
