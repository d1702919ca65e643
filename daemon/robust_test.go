package daemon_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
	"github.com/strata-nix/strata/worker"
)

// The tests in files robust_*_test.go do to the real binary what a daemon has to
// survive: stores that go away, disks that are full, crashes, clients that hang,
// lie or are not to be trusted.

const nixDir = storepath.DefaultDir

// newest is the release of stock Nix that judges what strata has written.
const newest = "2.34"

// rig is the strata daemon on a store below root.
type rig struct {
	t      *testing.T
	root   string // <root>/nix/store and so on, unless args say otherwise
	socket string
	args   []string
	proc   *testenv.Process
}

// newRig prepares a daemon; args name the store, local?root=<root> if there are
// none.
func newRig(t *testing.T, root string, args ...string) *rig {
	t.Helper()
	r := &rig{t: t, root: root, socket: filepath.Join(testenv.Scratch(t), "socket"), args: args}
	if len(args) == 0 {
		r.args = []string{"--store", "local?root=" + root}
	}
	return r
}

// startRig is newRig with everybody trusted, started.
func startRig(t *testing.T, root string, args ...string) *rig {
	t.Helper()
	r := newRig(t, root, args...)
	r.args = append(r.args, "--force-trusted")
	r.start()
	return r
}

func (r *rig) start() {
	r.t.Helper()
	r.proc = testenv.Start(r.t, strataCommand(r.t, append([]string{"daemon", "--socket", r.socket}, r.args...)...))
	r.proc.WaitSocket(r.socket)
}

// strataCommand is the binary with nothing of the machine's configuration.
func strataCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(testenv.Strata(t), args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/homeless", "NIX_CONF_DIR=/nonexistent"}
	return cmd
}

// strata runs the binary to its end.
func strata(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	text, err := strataCommand(t, args...).CombinedOutput()
	return string(text), err
}

func (r *rig) client() *worker.Client {
	r.t.Helper()
	c, err := worker.NewClient(r.t.Context(), worker.DialUnix(r.socket), worker.ClientOptions{})
	if err != nil {
		r.t.Fatalf("connecting: %v\n%s", err, r.proc.Output())
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

// store and state are the directories.
func (r *rig) store() string { return filepath.Join(r.root, "nix/store") }
func (r *rig) state() string { return filepath.Join(r.root, "nix/var/nix") }

// add adds objects one by one, which must work.
func (r *rig) add(c *worker.Client, objects ...storetest.Object) {
	r.t.Helper()
	for _, o := range objects {
		if err := c.Add(r.t.Context(), o.Info, o.Reader(), unsigned); err != nil {
			r.t.Fatalf("adding %s: %v\n%s", o.Path(), err, r.proc.Output())
		}
	}
}

var unsigned = store.AddOptions{NoCheckSigs: true}

// valid fails unless exactly those of paths are valid that want says.
func (r *rig) valid(c *worker.Client, want bool, objects ...storetest.Object) {
	r.t.Helper()
	for _, o := range objects {
		v, err := c.ValidPaths(r.t.Context(), []storepath.Path{o.Path()})
		if err != nil || (len(v) == 1) != want {
			r.t.Errorf("%s: valid %v, want %v, error %v", o.Path().Name(), len(v) == 1, want, err)
		}
	}
}

// file is an object of one file with size bytes that nothing compresses.
func file(t testing.TB, name string, size int, refs ...storepath.Path) storetest.Object {
	t.Helper()
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		sum := sha256.Sum256(fmt.Append(nil, name, i))
		b.Write(sum[:min(len(sum), size-b.Len())])
	}
	return storetest.File(t, nixDir, name, b.String(), refs...)
}

// gate is a reader that stops for good after some bytes, until it is opened. It
// is how an upload is caught in the middle.
type gate struct {
	r    io.Reader
	left int
	open chan struct{}
}

func gated(o storetest.Object, bytes int) *gate {
	return &gate{r: o.Reader(), left: bytes, open: make(chan struct{})}
}

func (g *gate) Read(p []byte) (int, error) {
	if g.left == 0 {
		<-g.open
		return g.r.Read(p)
	}
	n, err := g.r.Read(p[:min(len(p), g.left)])
	g.left -= n
	return n, err
}

// eventually waits for what another process does. It only bounds how long a
// failing test takes.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// unpacking waits until the daemon has written so many bytes of objects that are
// not complete.
func (r *rig) unpacking(bytes int64) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%d bytes are unpacked", bytes), func() bool {
		entries, _ := os.ReadDir(r.store())
		size := int64(0)
		for _, e := range entries {
			if gc.IsTempName(e.Name()) {
				size += treeSize(filepath.Join(r.store(), e.Name()))
			}
		}
		return size >= bytes
	})
}

func treeSize(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if fi, err := d.Info(); err == nil {
				n += fi.Size()
			}
		}
		return nil // what goes away meanwhile does not count
	})
	return n
}

// entries are the names in the store directory but .links.
func (r *rig) entries() []string {
	r.t.Helper()
	return listing(r.t, r.store())
}

func listing(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.Name() != ".links" {
			names = append(names, e.Name())
		}
	}
	return names
}

// holds fails unless the store directory has nothing but the objects, once the daemon has noticed
// which clients have gone.
func (r *rig) holds(objects ...storetest.Object) {
	r.t.Helper()
	var want []string
	for _, o := range objects {
		want = append(want, o.Path().Base())
	}
	slices.Sort(want)
	eventually(r.t, fmt.Sprintf("the store directory holds %q", want), func() bool { return slices.Equal(r.entries(), want) })
}

// stockVerify has stock Nix compare database and objects of the store below
// root. It gives the valid paths.
func stockVerify(t *testing.T, root string) []string {
	t.Helper()
	nix := testenv.Nix(t, newest).WithBind(filepath.Join(root, "nix"), "/nix")
	cmd := nix.Command(t.Context(), "nix-store", "--verify", "--check-contents")
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "error") || strings.Contains(string(out), "warning") {
		t.Errorf("nix-store --verify: %v\n%s", err, out)
	}
	return strings.Fields(nix.Run(t, "nix", "path-info", "--all"))
}

// snapshot is all that a failed command must leave as it was: what lies in the
// store directory, and what the database says.
func snapshot(t *testing.T, root string) string {
	t.Helper()
	db, err := strata(t, "dump-db", "--store", "local?read-only=true&root="+root)
	if err != nil {
		t.Fatalf("dump-db: %v\n%s", err, db)
	}
	return strings.Join(listing(t, filepath.Join(root, "nix/store")), "\n") + "\n" + db
}

// raw is a client that says what no honest one does.
type raw struct {
	net.Conn
	t *testing.T
	*wire.Writer
	in *wire.Reader
}

// Numbers of the protocol that the tests speak by themselves.
const (
	clientMagic = 0x6e697863
	latest      = 1<<8 | 38
	msgLast     = 0x616c7473
	msgError    = 0x63787470
	msgNext     = 0x6f6c6d67

	opIsValidPath    = 1
	opAddTextToStore = 8
	opSetOptions     = 19
	opAddToStoreNar  = 39
	opAddMultiple    = 44
)

// dial connects and says nothing.
func (r *rig) dial() *raw {
	r.t.Helper()
	c, err := net.Dial("unix", r.socket)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return &raw{Conn: c, t: r.t, Writer: wire.NewWriter(c), in: wire.NewReader(c)}
}

// greet is dial with a handshake of protocol 1.37.
func (r *rig) greet() *raw {
	r.t.Helper()
	c := r.dial()
	c.Uint64(clientMagic)
	c.Uint64(1<<8 | 37)
	c.Uint64(0)
	c.Uint64(0)
	c.flush()
	c.greeted()
	return c
}

// greeted reads the daemon's half of the handshake.
func (c *raw) greeted() {
	c.t.Helper()
	c.in.Uint64() // magic
	c.in.Uint64() // version
	_ = c.in.Text()
	c.in.Uint64() // trust
	if last := c.in.Uint64(); last != msgLast || c.in.Err() != nil {
		c.t.Fatalf("handshake: %#x, %v", last, c.in.Err())
	}
}

// Write is the connection's, past the Writer.
func (c *raw) Write(p []byte) (int, error) { return c.Conn.Write(p) }

func (c *raw) flush() {
	c.t.Helper()
	if err := c.Flush(); err != nil {
		c.t.Fatal(err)
	}
}

// asks tells whether the connection still answers a question.
func (c *raw) asks(o storetest.Object) (valid bool) {
	c.t.Helper()
	c.Uint64(opIsValidPath)
	c.Text(nixDir.Print(o.Path()))
	c.flush()
	if msg := c.hear(); msg != "" {
		c.t.Fatalf("the connection answers a question with %q", msg)
	}
	return c.in.Bool()
}

// hear reads up to the answer; an error is given back, in words.
func (c *raw) hear() string {
	c.t.Helper()
	for {
		switch msg := c.in.Uint64(); {
		case c.in.Err() != nil:
			return "the connection ended: " + c.in.Err().Error()
		case msg == msgLast:
			return ""
		case msg == msgNext:
			_ = c.in.Text()
		case msg == msgError:
			_ = c.in.Text()
			c.in.Uint64()
			_ = c.in.Text()
			text := c.in.Text()
			c.in.Uint64()
			for range c.in.Uint64() {
				c.in.Uint64()
				_ = c.in.Text()
			}
			return text
		default:
			c.t.Fatalf("unexpected message %#x", msg)
		}
	}
}

// addNar writes the head of an AddToStoreNar of an object.
func (c *raw) addNar(o storetest.Object) {
	c.Uint64(opAddToStoreNar)
	c.info(o.Info)
	c.Bool(false) // repair
	c.Bool(true)  // no signatures
}

func (c *raw) info(i *store.PathInfo) {
	c.Text(nixDir.Print(i.Path))
	c.Text("")
	c.Text(i.NarHash.String())
	var refs []string
	for _, r := range i.References {
		refs = append(refs, nixDir.Print(r))
	}
	c.Strings(refs)
	c.Uint64(0)
	c.Uint64(i.NarSize)
	c.Bool(false)
	c.Strings(nil)
	c.Text(i.CA.String())
}

// says fails unless err says all of the words.
func says(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one that says %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

// ended waits for a process to end by itself.
func ended(t *testing.T, p *testenv.Process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	select {
	case <-p.Done():
	case <-ctx.Done():
		t.Fatalf("the process does not end:\n%s", p.Output())
	}
}

// hungUp closes the only client that is left, and waits until the daemon has
// noticed: as long as it has not, the client's temporary roots count. Files of
// daemons that were killed stay.
func hungUp(t *testing.T, c *worker.Client, state string) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(state, "temproots")
	eventually(t, "its temporary roots are gone", func() bool {
		for _, name := range listing(t, dir) {
			f, err := os.Open(filepath.Join(dir, name))
			if err != nil {
				continue
			}
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
			f.Close()
			if err != nil {
				return false
			}
		}
		return true
	})
}

func pathsOf(objects ...storetest.Object) (out []storepath.Path) {
	for _, o := range objects {
		out = append(out, o.Path())
	}
	return out
}

// reachable tells whether somebody listens on a socket.
func reachable(socket string) bool {
	c, err := net.Dial("unix", socket)
	if err == nil {
		c.Close()
	}
	return err == nil
}
