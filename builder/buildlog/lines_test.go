package buildlog_test

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder/buildlog"
)

// record is a sink that writes down what it gets, with activities in the order
// of their beginning.
type record struct {
	lines []string
	ids   map[uint64]int
}

func (r *record) id(id uint64) int {
	if r.ids == nil {
		r.ids = map[uint64]int{}
	}
	if r.ids[id] == 0 && id != 0 {
		r.ids[id] = len(r.ids) + 1
	}
	return r.ids[id]
}

func (r *record) add(format string, args ...any) {
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

func (r *record) Log(l activity.Level, text string) { r.add("log %d %s", l, text) }
func (r *record) Start(e activity.Event) {
	r.add("start %d in %d: %d %d %s%s", r.id(e.ID), r.id(e.Parent), e.Level, e.Type, e.Text, show(e.Fields))
}
func (r *record) Stop(id uint64) { r.add("stop %d", r.id(id)) }
func (r *record) Result(id uint64, what activity.ResultType, f []activity.Field) {
	if what == activity.BuildLogLine {
		r.add("%s", f[0].Text)
		return
	}
	r.add("result %d %d%s", r.id(id), what, show(f))
}

func show(fields []activity.Field) string {
	var b strings.Builder
	for _, f := range fields {
		if f.IsText {
			fmt.Fprintf(&b, " %q", f.Text)
		} else {
			fmt.Fprintf(&b, " %d", f.Int)
		}
	}
	return b.String()
}

// run gives what a client hears of some output, without the build itself.
func run(t *testing.T, in io.Reader, setup func(*buildlog.Lines)) (heard, tail []string) {
	t.Helper()
	r := &record{}
	ctx, act := activity.Start(activity.With(t.Context(), r), activity.Info, activity.Build, "b")
	l := buildlog.NewLines(ctx, act, 3)
	if setup != nil {
		setup(l)
	}
	if _, err := io.Copy(l, in); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return r.lines[1:], l.Tail()
}

func TestLines(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     []string
	}{
		{"nothing", "", nil},
		{"lines", "a\n\nb\n", []string{"a", "", "b"}},
		{"without an end", "a\nb", []string{"a", "b"}},
		{"carriage return", "10%\r20%\rdone\nx", []string{"done", "x"}},
		{"carriage return and line feed", "a\r\nb\r\r\n", []string{"a", "b"}},
		{"carriage return at the end", "a\r", []string{"a"}},
		{"not UTF-8", "\xff\xfe\x00\n", []string{"\xff\xfe\x00"}},
		{"phase", "@nix {\"action\":\"setPhase\",\"phase\":\"build\"}\nx\n", []string{`result 1 104 "build"`, "x"}},
		{"message", `@nix {"action":"msg","level":1,"msg":"hm"}` + "\n", []string{"log 1 hm"}},
		{"no JSON", "@nix {\n", []string{"log 0 bad JSON log message from the derivation builder: \"{\"", "@nix {"}},
		{"unknown action", `@nix {"action":"dance"}` + "\n", nil},
		{
			"no action", "@nix {}\n",
			[]string{"log 1 warning: Unable to handle a JSON message from the derivation builder: not the field that belongs there: action", "@nix {}"},
		},
		{
			"transfer", strings.Join([]string{
				`@nix {"action":"start","id":7,"level":3,"type":101,"text":"getting","parent":0,"fields":["http://x",5]}`,
				`@nix {"action":"result","id":7,"type":105,"fields":[1,2,0,0]}`,
				`@nix {"action":"stop","id":7}`,
				`@nix {"action":"stop","id":7}`,
				`@nix {"action":"result","id":7,"type":105,"fields":[1,2,0,0]}`,
			}, "\n"),
			[]string{`start 2 in 1: 3 101 getting "http://x" 5`, "result 2 105 1 2 0 0", "stop 2"},
		},
		{"open at the end", `@nix {"action":"start","id":7,"level":3,"type":101,"text":"t"}`, []string{"start 2 in 1: 3 101 t", "stop 2"}},
		{"not to be believed", `@nix {"action":"start","id":7,"level":3,"type":105,"text":"t"}`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			whole, tail := run(t, strings.NewReader(c.in), nil)
			if !slices.Equal(whole, c.want) {
				t.Errorf("got  %q\nwant %q", whole, c.want)
			}
			if pieces, _ := run(t, iotest.OneByteReader(strings.NewReader(c.in)), nil); !slices.Equal(pieces, c.want) {
				t.Errorf("byte by byte %q", pieces)
			}
			if len(tail) > 3 {
				t.Errorf("tail %q", tail)
			}
		})
	}
}

func TestTail(t *testing.T) {
	for n, want := range map[int][]string{0: nil, 2: {"0", "1"}, 3: {"0", "1", "2"}, 5: {"2", "3", "4"}, 7: {"4", "5", "6"}} {
		var in strings.Builder
		for i := range n {
			fmt.Fprintln(&in, i)
		}
		if _, tail := run(t, strings.NewReader(in.String()), nil); !slices.Equal(tail, want) {
			t.Errorf("%d lines: %q", n, tail)
		}
	}
}

func TestTrustedMessagesStartAnything(t *testing.T) {
	in := `@nix {"action":"start","id":7,"level":3,"type":105,"text":"t"}`
	if got, _ := run(t, strings.NewReader(in), (*buildlog.Lines).Trust); !slices.Equal(got, []string{"start 2 in 1: 3 105 t", "stop 2"}) {
		t.Errorf("%q", got)
	}
}

// What a builder can make us keep is bounded.
func TestEndlessLinesAndActivities(t *testing.T) {
	long := bytes.Repeat([]byte("x"), 1<<20)
	got, _ := run(t, bytes.NewReader(long), nil)
	if strings.Join(got, "") != string(long) || len(got) != 16 {
		t.Errorf("%d lines", len(got))
	}
	var many strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&many, "@nix {\"action\":\"start\",\"id\":%d,\"level\":3,\"type\":101,\"text\":\"t\"}\n", i)
	}
	got, _ = run(t, strings.NewReader(many.String()), nil)
	if len(got) != 2*1024 {
		t.Errorf("%d starts and stops", len(got))
	}
}

func FuzzLines(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte, cut uint8) {
		whole, _ := run(t, bytes.NewReader(in), nil)
		n := int(cut) % (len(in) + 1)
		parts, _ := run(t, io.MultiReader(bytes.NewReader(in[:n]), bytes.NewReader(in[n:])), nil)
		if !slices.Equal(whole, parts) {
			t.Errorf("whole %q, in two parts %q", whole, parts)
		}
	})
}
