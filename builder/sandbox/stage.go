package sandbox

import (
	"bufio"
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// A program that imports this package is also the two that stand around bubblewrap,
// when it is started in these ways. That is looked at while packages are
// initialised, before most of the program has run. Small programs start in about a
// millisecond; one as large as strata was seen to take 4 to 7 ms more, each time.
const (
	keeperName = "strata-sandbox-keeper" // argv[0]
	entryName  = "strata-sandbox-entry"  // argv[0], or argv[1] when bwrap starts it; then a number, see loader

	namespacesName = "strata-sandbox-namespaces" // argv[0]; of Probe
)

// Files that the keeper is started with.
const (
	keeperConn   = 3 + iota // the connection to who started it
	keeperSpecFD            // a keeperSpec
	keeperEntry             // an entrySpec, handed on
	keeperOutput            // where the builder writes to, handed on
	keeperCgroup            // the directory of the control group, or /dev/null

	keeperFiles = keeperCgroup - keeperConn + 1
)

// Files that entry is started with.
const (
	entrySpecFD = 3 + iota // an entrySpec
	entryStatus            // it writes readyLine, and what went wrong as a report
	entryGo                // it reads a byte before it executes the builder
	entryOutput            // where the builder writes to
	entrySelf              // this executable
)

const readyLine = "ready\n"

func init() {
	switch {
	case len(os.Args) == 0: // somebody's joke
	case os.Args[0] == keeperName:
		keep()
		os.Exit(0)
	case os.Args[0] == entryName, len(os.Args) == 3 && os.Args[0] == selfPath && os.Args[1] == entryName:
		enter()
	case os.Args[0] == namespacesName:
		namespaces()
		os.Exit(0)
	}
}

// selfPath is how entry is called inside, where its file is not to be seen.
var selfPath = fmt.Sprintf("/proc/self/fd/%d", entrySelf)

// stageEnv is the environment of the stages: they live for a moment, or wait.
var stageEnv = []string{"GOGC=off", "GOMEMLIMIT=64MiB", "GOMAXPROCS=1"}

// keeperSpec is what the keeper is told.
type keeperSpec struct {
	Isolation  *Isolation
	Bwrap      string // path of bubblewrap
	HasUser    bool   // UID and GID run it; otherwise who runs the keeper
	Exclusive  bool   // nothing else runs as that user
	UID, GID   uint32
	Count      uint32
	Privileged bool // the caller is root, and so is the keeper in its own right
	KeepGroups bool
	HasCgroup  bool
}

// entrySpec is what entry is told.
type entrySpec struct {
	Path, Dir     string
	Args, Env     []string
	Self          bool
	Range         bool // uid 0 of a range: it gets a /sys
	SetUser       bool // become UID, GID, Groups
	UID, GID      uint32
	Groups        []uint32
	Persona       uintptr // flags for personality(2)
	Filter        bool
	NewPrivileges bool
}

// report is an error on its way from a stage to who can tell it.
type report struct {
	Step  string
	Text  string
	Errno unix.Errno // 0: none
	Exec  bool       // it is the program that cannot be executed
}

func newReport(step string, err error) *report {
	if r, ok := errors.AsType[*report](err); ok {
		return r
	}
	if e, ok := errors.AsType[*SetupError](err); ok {
		step, err = e.Step, e.Err
	}
	r := &report{Step: step, Text: err.Error()}
	errors.As(err, &r.Errno)
	return r
}

// cause is an error that came from another process.
type cause struct {
	text  string
	errno unix.Errno
}

func (c *cause) Error() string { return c.text }

func (c *cause) Unwrap() error {
	if c.errno == 0 {
		return nil
	}
	return c.errno
}

func (r *report) Error() string { return r.err().Error() }

// err is what Start says.
func (r *report) err() error {
	if r.Exec && r.Errno != 0 {
		return &ExecError{Path: r.Step, Err: r.Errno}
	}
	return &SetupError{Step: r.Step, Err: &cause{text: r.Text, errno: r.Errno}}
}

// sealed puts a value where a stage finds it: in a file in memory. The encoding is
// gob, since what is in JSON must be UTF-8, and environments need not be.
func sealed(name string, v any) (*os.File, error) {
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(v); err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.WriteAt(b.Bytes(), 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// unsealed reads what sealed wrote, and closes it.
func unsealed(fd int, v any) error {
	f := os.NewFile(uintptr(fd), "specification")
	defer f.Close()
	return gob.NewDecoder(bufio.NewReaderSize(io.NewSectionReader(f, 0, math.MaxInt64), 64<<10)).Decode(v)
}
