package sandbox

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A program that imports this package is also the two that stand around bubblewrap,
// when it is started in these ways. That is looked at while packages are
// initialised, before most of the program has run. How long that takes depends on
// how large the program is, so that a small one can stand in for it: see program.go.
const (
	keeperName = "strata-sandbox-keeper" // argv[0]
	entryName  = "strata-sandbox-entry"  // argv[1]; argv[0] is what bwrap starts it by

	namespacesName = "strata-sandbox-namespaces" // argv[0]; of Probe
)

// keeperConn is the connection from a keeper to who started it.
const keeperConn = 3

// Files that entry is started with.
const (
	entrySpecFD = 3 + iota // a builderSpec
	entryStatus            // a socket on which it sends events: that it is ready, or what went wrong
	entryGo                // it reads a byte before it executes the builder
	entryOutput            // where the builder writes to
	entrySelf              // this executable
)

func init() {
	switch {
	case len(os.Args) == 0: // somebody's joke
	case os.Args[0] == keeperName:
		keep()
		os.Exit(0)
	case len(os.Args) == 2 && os.Args[0] == selfPath && os.Args[1] == entryName:
		enter()
	case os.Args[0] == namespacesName:
		namespaces()
		os.Exit(0)
	}
}

// selfPath is how entry is called inside, where its file is not to be seen.
var selfPath = fmt.Sprintf("/proc/self/fd/%d", entrySelf)

// The environments of the stages, which live for a moment or wait. How many
// processors there are need not be found out. The keeper's second one is for
// listening while another thread forks.
var (
	keeperEnv = append([]string{"GOMAXPROCS=2"}, stageEnv...)
	entryEnv  = append([]string{"GOMAXPROCS=1"}, stageEnv...)
	stageEnv  = []string{"GOGC=off", "GOMEMLIMIT=32MiB", "GODEBUG=containermaxprocs=0,updatemaxprocs=0"}
)

// keeperSpec is what the keeper is told.
type keeperSpec struct {
	Isolation  *Isolation
	Bwrap      string // path of bubblewrap
	HasUser    bool   // UID and GID run it, with Groups outside a sandbox; otherwise who runs the keeper
	Exclusive  bool   // nothing else runs as that user
	UID, GID   uint32
	Groups     []uint32
	Count      uint32
	Privileged bool // the caller is root, and so is the keeper in its own right
	KeepGroups bool
	HasCgroup  bool
}

func (s *keeperSpec) pack(p *pack) {
	isolated := s.Isolation != nil
	p.flag(&isolated)
	if isolated {
		if s.Isolation == nil {
			s.Isolation = new(Isolation)
		}
		s.Isolation.pack(p)
	}
	text(p, &s.Bwrap)
	p.flag(&s.HasUser)
	p.flag(&s.Exclusive)
	integer(p, &s.UID)
	integer(p, &s.GID)
	each(p, &s.Groups, func(gid *uint32) { integer(p, gid) })
	integer(p, &s.Count)
	p.flag(&s.Privileged)
	p.flag(&s.KeepGroups)
	p.flag(&s.HasCgroup)
}

func (in *Isolation) pack(p *pack) {
	each(p, &in.Mounts, func(m *Mount) { m.pack(p) })
	p.flag(&in.Network)
	p.flag(&in.KVM)
	text(p, &in.DevShmSize)
}

func (m *Mount) pack(p *pack) {
	integer(p, &m.Kind)
	text(p, &m.Target)
	text(p, &m.Source)
	p.flag(&m.Optional)
	text(p, &m.Data)
	integer(p, &m.Mode)
	text(p, &m.Size)
}

// builderSpec is what becomes the builder.
type builderSpec struct {
	Path, Dir     string
	Args, Env     []string
	Range         bool    // uid 0 of a range: it gets a /sys
	Persona       uintptr // flags for personality(2)
	Filter        bool
	NewPrivileges bool
}

func (s *builderSpec) pack(p *pack) {
	text(p, &s.Path)
	text(p, &s.Dir)
	each(p, &s.Args, func(arg *string) { text(p, arg) })
	each(p, &s.Env, func(variable *string) { text(p, variable) })
	p.flag(&s.Range)
	integer(p, &s.Persona)
	p.flag(&s.Filter)
	p.flag(&s.NewPrivileges)
}

// order is what the keeper is told while the builder runs: to show something. The
// end of the orders is one to kill.
type order struct{ Source, Target string }

func (o *order) pack(p *pack) {
	text(p, &o.Source)
	text(p, &o.Target)
}

// event is what a stage tells, one message each.
type event struct {
	kind   eventKind
	report report // of builderFailed and mountShown, which was not if there is a Step
	ending ending // of builderEnded
}

type eventKind uint8

const (
	_              eventKind = iota
	builderStarted           // the builder has been executed
	builderFailed            // it will not be, or it is not known how it ended
	mountShown               // an order is carried out
	builderEnded             // what is left is being killed
	keeperFree               // all that was left has been killed
	entryReady               // the sandbox stands
)

type ending struct {
	Status       syscall.WaitStatus
	User, System time.Duration
}

func (e *event) pack(p *pack) {
	integer(p, &e.kind)
	e.report.pack(p)
	integer(p, &e.ending.Status)
	integer(p, &e.ending.User)
	integer(p, &e.ending.System)
}

// maxMessage is more than an order or an event can be long, of which each is one
// message on the connection. The kernel has room for some more.
const maxMessage = 16 << 10

// report is an error on its way from a stage to who can tell it.
type report struct {
	Step  string
	Text  string
	Errno unix.Errno // 0: none
	Exec  bool       // it is the program that cannot be executed
}

func (r *report) pack(p *pack) {
	text(p, &r.Step)
	text(p, &r.Text)
	integer(p, &r.Errno)
	p.flag(&r.Exec)
}

func newReport(step string, err error) *report {
	if r, ok := errors.AsType[*report](err); ok {
		return r
	}
	if e, ok := errors.AsType[*SetupError](err); ok {
		step, err = e.Step, e.Err
	}
	const most = maxMessage / 4
	why := err.Error()
	r := &report{Step: step[:min(len(step), most)], Text: why[:min(len(why), most)]}
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

// sealed puts a value where a stage finds it: in a file in memory.
func sealed(name string, v packed) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.WriteAt(packUp(v), 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// unsealed reads what sealed wrote.
func unsealed(fd int, v packed) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("fstat: %w", err)
	}
	b := make([]byte, st.Size)
	n, err := unix.Pread(fd, b, 0) // all of it: the file is in memory
	if err != nil {
		return fmt.Errorf("pread: %w", err)
	}
	return unpack(b[:n], v)
}
