package mount

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// TablePath is the mount table of the calling thread's namespace and root.
const TablePath = "/proc/thread-self/mountinfo"

// MaxLine bounds one line of the mount table. The longest that the kernel can
// make for an overlay has 500 lowers of 4095 bytes, each byte in four
// characters.
const MaxLine = 16 << 20

// Entry is one line of the mount table, proc(5) "mountinfo". Octal escapes are
// resolved in all fields except Options, whose meaning is the file system's.
type Entry struct {
	ID, Parent uint64
	Device     Device
	Root       string // the directory of the file system that is mounted here
	Target     string // mount point, as seen from the process's root
	Deleted    bool   // the mount point's directory was removed
	VFSOptions string // options of this mount: rw,nosuid,…
	FSType     string // with subtype: "overlay", "fuse.x"
	Source     string
	Options    string // options of the file system, still escaped
}

// TableError is a line of the mount table that cannot be understood.
type TableError struct {
	Line int // from 1
	Err  error
}

func (e *TableError) Error() string { return fmt.Sprintf("mount table line %d: %v", e.Line, e.Err) }
func (e *TableError) Unwrap() error { return e.Err }

// ErrLineTooLong is the error for a line longer than [MaxLine].
var ErrLineTooLong = errors.New("line too long")

// Entries parses a mount table line by line. The sequence ends after the first
// error.
func Entries(r io.Reader) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		br := bufio.NewReaderSize(r, 64<<10)
		for n := 1; ; n++ {
			line, err := readLine(br)
			if line == "" && errors.Is(err, io.EOF) {
				return
			}
			if err != nil && !errors.Is(err, io.EOF) {
				yield(Entry{}, &TableError{n, err})
				return
			}
			e, perr := ParseEntry(line)
			if perr != nil {
				yield(Entry{}, &TableError{n, perr})
				return
			}
			if !yield(e, nil) || err != nil {
				return
			}
		}
	}
}

func readLine(br *bufio.Reader) (string, error) {
	var line []byte
	for {
		part, err := br.ReadSlice('\n')
		if len(line)+len(part) > MaxLine {
			return "", ErrLineTooLong
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return strings.TrimSuffix(string(line), "\n"), err
		}
	}
}

// ParseEntry parses one line without its newline.
func ParseEntry(line string) (Entry, error) {
	// Blanks inside fields are escaped, and a source may be empty: split at
	// single blanks.
	head, tail, ok := strings.Cut(line, " - ")
	fields := strings.Split(head, " ")
	if !ok || len(fields) < 6 {
		return Entry{}, fmt.Errorf("want six fields and a separator, found %q", clip(line))
	}
	rest := strings.SplitN(tail, " ", 3)
	if len(rest) != 3 {
		return Entry{}, fmt.Errorf("want type, source and options after the separator, found %q", clip(tail))
	}
	id, err1 := strconv.ParseUint(fields[0], 10, 64)
	parent, err2 := strconv.ParseUint(fields[1], 10, 64)
	dev, err3 := parseDevice(fields[2])
	if err := errors.Join(err1, err2, err3); err != nil {
		return Entry{}, err
	}
	target, deleted := strings.CutSuffix(fields[4], "//deleted")
	return Entry{
		ID: id, Parent: parent, Device: dev,
		Root: Unescape(fields[3]), Target: Unescape(target), Deleted: deleted,
		VFSOptions: fields[5],
		FSType:     Unescape(rest[0]), Source: Unescape(rest[1]), Options: rest[2],
	}, nil
}

func parseDevice(s string) (Device, error) {
	major, minor, _ := strings.Cut(s, ":")
	ma, err1 := strconv.ParseUint(major, 10, 32)
	mi, err2 := strconv.ParseUint(minor, 10, 32)
	return Device{uint32(ma), uint32(mi)}, errors.Join(err1, err2)
}

// clip keeps a hostile line from filling an error message.
func clip(s string) string {
	const most = 120
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// Unescape resolves the three-digit octal escapes (\040 for a blank) that the
// kernel writes in its mount tables. Anything else is left as it is.
func Unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if c, ok := Octal(s[i:]); ok {
			b.WriteByte(c)
			i += 4
			continue
		}
		b.WriteByte(s[i])
		i++
	}
	return b.String()
}

// Octal decodes the escape at the start of s, if there is one.
func Octal(s string) (byte, bool) {
	if len(s) < 4 || s[0] != '\\' || s[1] < '0' || s[1] > '3' || !octalDigit(s[2]) || !octalDigit(s[3]) {
		return 0, false
	}
	return (s[1]-'0')<<6 | (s[2]-'0')<<3 | (s[3] - '0'), true
}

func octalDigit(c byte) bool { return '0' <= c && c <= '7' }

// ReadTable returns the entries of the caller's mount table that keep wants;
// nil keeps all.
func ReadTable(keep func(Entry) bool) ([]Entry, error) {
	f, err := os.Open(TablePath)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []Entry
	for e, err := range Entries(f) {
		if err != nil {
			return nil, fmt.Errorf("%s: %w", TablePath, err)
		}
		if keep == nil || keep(e) {
			out = append(out, e)
		}
	}
	return out, nil
}

// Resolve returns the absolute path of target with all symbolic links
// resolved: the spelling in which the mount table has it.
func Resolve(target string) (string, error) {
	abs, err := filepath.Abs(target)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}

// StackAt returns the mounts whose mount point is target, bottom first; the
// last one is what a process sees. It is empty when target is no mount point.
// Mounts there that lie hidden under a mount of a parent directory do not
// count. target must exist.
func StackAt(target string) ([]Entry, error) {
	path, err := Resolve(target)
	if err != nil {
		return nil, err
	}
	// The table is read in several system calls and may change in between;
	// a visible mount that is not in it is a reason to read again.
	for try := 0; ; try++ {
		top, idErr := Identify(path)
		if idErr != nil && !errors.Is(idErr, ErrNoMountIDs) {
			return nil, idErr
		}
		if idErr == nil && !top.Root {
			return nil, nil
		}
		here, err := ReadTable(func(e Entry) bool { return e.Target == path })
		if err != nil {
			return nil, err
		}
		if idErr != nil {
			return here, nil // old kernel: the table is in mounting order
		}
		if stack := chain(here, top.Mount); len(stack) > 0 || try == 3 {
			return stack, nil
		}
	}
}

// chain follows the parent ids down from the mount with id top.
func chain(here []Entry, top uint64) []Entry {
	var stack []Entry
	for id := top; len(stack) <= len(here); {
		i := slices.IndexFunc(here, func(e Entry) bool { return e.ID == id })
		if i < 0 {
			break
		}
		stack = append(stack, here[i])
		if id == here[i].Parent {
			break
		}
		id = here[i].Parent
	}
	slices.Reverse(stack)
	return stack
}
