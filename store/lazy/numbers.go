package lazy

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// numbers says which number stands for which object, with which tree, for as long as a mount
// exists: the kernel knows files by these numbers, and whoever serves the mount next must
// mean the same by them. So they are kept in a file: in line n is what number n stands for.
//
//	<first 16 hexadecimal digits of the SHA-256 of the encoded tree and the NAR hash> <hash part>-<name>\n
//
// So an object has another number when it is another one by the same name: the kernel keeps what it has read by the
// number.
// A line is written before anybody hears of its number. One without its end is none.
type numbers struct {
	lock *flock.Lock
	file *os.File

	mu    sync.Mutex
	lines []numbered
	last  map[storepath.Path]uint64 // the last number of each object
	size  int64                     // of the file up to the end of its last line
}

type numbered struct {
	path storepath.Path
	id   objectID
}

// objectID tells objects by one name apart.
type objectID [8]byte

func objectIDOf(info *store.PathInfo, t *fusefs.Tree) (id objectID) {
	h := sha256.New()
	h.Write(t.Encoded())
	io.WriteString(h, info.NarHash.String()) //nolint:errcheck // a hash takes everything
	copy(id[:], h.Sum(nil))
	return id
}

// ErrServed: another process serves this mount.
var ErrServed = errors.New("the mount is served by another process")

// openNumbers opens the file, made if it is not there. One process at a time can.
func openNumbers(file string) (_ *numbers, err error) {
	n := &numbers{last: map[storepath.Path]uint64{}}
	if n.lock, err = flock.Open(file); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = n.lock.Close()
		}
	}()
	ok, err := n.lock.Try(flock.Exclusive)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("'%s': %w", file, ErrServed)
	}
	n.file = n.lock.File()
	return n, n.read()
}

// read reads what is there, and cuts off what was being written when its process
// was killed.
func (n *numbers) read() error {
	r := bufio.NewReader(n.file)
	for {
		line, err := r.ReadString('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		entry, err := parseNumbered(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return fmt.Errorf("'%s', line %d: %w", n.file.Name(), len(n.lines)+1, err)
		}
		n.note(entry)
		n.size += int64(len(line))
	}
	return n.file.Truncate(n.size)
}

func parseNumbered(line string) (numbered, error) {
	var e numbered
	id, base, ok := strings.Cut(line, " ")
	if !ok || len(id) != 2*len(e.id) {
		return e, errors.New("malformed number of an object")
	}
	if _, err := hex.Decode(e.id[:], []byte(id)); err != nil {
		return e, err
	}
	var err error
	e.path, err = storepath.ParseBase(base)
	return e, err
}

func (n *numbers) note(e numbered) {
	n.lines = append(n.lines, e)
	n.last[e.path] = uint64(len(n.lines))
}

// of gives the number of an object, a new one if it has none, and tells whether none by this name had one before.
func (n *numbers) of(p storepath.Path, id objectID) (number uint64, fresh bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	number, known := n.last[p]
	if known && n.lines[number-1].id == id {
		return number, false, nil
	}
	if len(n.lines) == fusefs.MaxObject {
		return 0, false, errors.New("too many objects")
	}
	e := numbered{p, id}
	line := fmt.Appendf(nil, "%x %s\n", id[:], p.Base())
	// At its place, whatever a disk that was full has taken of the one before.
	if _, err := n.file.WriteAt(line, n.size); err != nil {
		return 0, false, err
	}
	n.size += int64(len(line))
	n.note(e)
	return uint64(len(n.lines)), !known, nil
}

// lastOf gives the last number of an object, 0 if it has none.
func (n *numbers) lastOf(p storepath.Path) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.last[p]
}

// known is how many objects have numbers.
func (n *numbers) known() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.last)
}

// get gives what a number stands for.
func (n *numbers) get(number uint64) (numbered, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if number == 0 || number > uint64(len(n.lines)) {
		return numbered{}, false
	}
	return n.lines[number-1], true
}

// after gives up to max numbers after one that are the last ones of their objects.
func (n *numbers) after(number uint64, limit int) (out []fusefs.Known) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := number; i < uint64(len(n.lines)) && len(out) < limit; i++ {
		if e := n.lines[i]; n.last[e.path] == i+1 {
			out = append(out, fusefs.Known{Number: i + 1, Name: e.path.Base()})
		}
	}
	return out
}

func (n *numbers) close() error { return n.lock.Close() }
