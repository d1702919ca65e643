package stack

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/unixsocket"
)

// What is said on the control socket: a client sends one line, a word and, for some
// words, a space and a JSON value. The answer to status is one JSON value. To all
// else it is lines of JSON, see [message], of which the last is a result or an error.
// A client that goes away ends what it asked for.

// Words that others ask.
const (
	askStatus   = "status"
	askRefresh  = "refresh"
	askPublish  = "publish"
	askCollect  = "collect"
	askOptimise = "optimise"
	askWhyAlive = "why-alive"
	askPivot    = "pivot"
	askLean     = "lean"
)

// requests are the words that have results, with who does the work.
var requests map[string]func(ctx context.Context, s *Stack, arg json.RawMessage) (any, error)

func init() { // what is asked leads back to who is asked
	requests = map[string]func(context.Context, *Stack, json.RawMessage) (any, error){
		askRefresh: func(ctx context.Context, s *Stack, _ json.RawMessage) (any, error) {
			r, err := s.Refresh(ctx)
			if _, pubErr := s.Publish(ctx); pubErr != nil {
				activity.Warnf(ctx, "telling the owners of lowers what is used of them: %v", pubErr)
			}
			return r, err
		},
		askPublish: func(ctx context.Context, s *Stack, _ json.RawMessage) (any, error) { return s.Publish(ctx) },
		askCollect: func(ctx context.Context, s *Stack, arg json.RawMessage) (any, error) {
			var o CollectOptions
			if err := json.Unmarshal(arg, &o); err != nil {
				return nil, err
			}
			return s.Collect(ctx, o)
		},
		askOptimise: func(ctx context.Context, s *Stack, arg json.RawMessage) (any, error) {
			return s.optimiseAsked(ctx, arg)
		},
		askWhyAlive: func(ctx context.Context, s *Stack, arg json.RawMessage) (any, error) { return s.whyAsked(ctx, arg) },
		askPivot: func(ctx context.Context, s *Stack, arg json.RawMessage) (any, error) {
			var o PivotOptions
			if err := json.Unmarshal(arg, &o); err != nil {
				return nil, err
			}
			return s.Pivot(ctx, o)
		},
		askLean: func(ctx context.Context, s *Stack, arg json.RawMessage) (any, error) { return s.leanAsked(ctx, arg) },
	}
}

// Bounds of what is read.
const (
	maxRequest = 64 << 10
	maxAnswer  = 16 << 20
)

// message is one line of an answer: what is told while it is at work, or its end.
type message struct {
	Log    *logLine        `json:"log,omitempty"`
	Start  *activity.Event `json:"start,omitempty"`
	Stop   uint64          `json:"stop,omitempty"`
	Tell   *tell           `json:"tell,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

type logLine struct {
	Level activity.Level `json:"level"`
	Text  string         `json:"text"`
}

// tell is the result of an activity.
type tell struct {
	ID     uint64              `json:"id"`
	What   activity.ResultType `json:"what"`
	Fields []activity.Field    `json:"fields"`
}

// answer serves one client.
func answer(ctx context.Context, s *Stack, conn net.Conn) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(2 * patience)) // a real connection has deadlines
	line, err := bufio.NewReaderSize(conn, maxRequest).ReadSlice('\n')
	if err != nil {
		return
	}
	t := &teller{enc: json.NewEncoder(conn)}
	word, arg, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
	if err := s.mayAsk(conn, word); err != nil {
		t.send(message{Error: err.Error()})
		return
	}
	if word != askPivot { // which waits for the others
		s.quiet.RLock()
		defer s.quiet.RUnlock()
	}
	if word == askStatus {
		_ = t.enc.Encode(s.Status(ctx)) // a client that is gone wants nothing
		return
	}
	_ = conn.SetDeadline(time.Time{})
	go func() { // until the client goes, or we have answered
		_, _ = conn.Read(make([]byte, 1))
		cancel()
	}()
	ask, known := requests[word]
	if !known {
		t.send(message{Error: fmt.Sprintf("version %s of strata, which serves the stack, cannot '%.40s'", s.parts.Version, word)})
		return
	}
	result, err := ask(activity.With(ctx, t), s, json.RawMessage(arg))
	if err != nil {
		t.send(message{Error: err.Error()})
		return
	}
	text, err := json.Marshal(result)
	if err != nil {
		t.send(message{Error: err.Error()})
		return
	}
	t.send(message{Result: text})
}

// mayAsk refuses those who are neither root, nor whoever serves the stack, nor its
// owner, whatever the file system let them do. What lies in the stack is nothing for an owner to
// decide: everybody who uses it runs programs of its lowers.
func (s *Stack) mayAsk(conn net.Conn, word string) error {
	raw, err := conn.(*net.UnixConn).SyscallConn() //nolint:forcetypeassert // what a unix listener accepts
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if credErr != nil {
		return credErr
	}
	owner, err := s.Config.GC.owner()
	if err != nil {
		return err
	}
	if uid := int(cred.Uid); uid == 0 || uid == os.Geteuid() || uid == owner && word != askPivot {
		return nil
	}
	return fmt.Errorf("user %d may not look after stack '%s'", cred.Uid, s.Config.Name)
}

// teller is the sink of an answer.
type teller struct {
	mu  sync.Mutex
	enc *json.Encoder
}

func (t *teller) send(m message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = t.enc.Encode(m) // a client that is gone wants nothing
}

// Log implements activity.Sink.
func (t *teller) Log(level activity.Level, text string) {
	if level < activity.Debug {
		t.send(message{Log: &logLine{level, text}})
	}
}

// Start implements activity.Sink.
func (t *teller) Start(e activity.Event) { t.send(message{Start: &e}) }

// Stop implements activity.Sink.
func (t *teller) Stop(id uint64) { t.send(message{Stop: id}) }

// Result implements activity.Sink.
func (t *teller) Result(id uint64, what activity.ResultType, fields []activity.Field) {
	t.send(message{Tell: &tell{id, what, fields}})
}

// connect reaches the process that serves the stack of an upper. The answer ends
// with ctx.
func connect(ctx context.Context, upper, line string) (net.Conn, error) {
	conn, err := unixsocket.Dial(ctx, filepath.Join(upper, controlFile))
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w; only root and the stack's owner may tell it what to do", err)
	}
	if err != nil {
		return nil, err
	}
	if at, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(at) // a real connection has deadlines
	}
	if _, err := conn.Write([]byte(line + "\n")); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// askForStatus asks the process that serves the stack of an upper.
func askForStatus(ctx context.Context, upper string) (*Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	conn, err := connect(ctx, upper, askStatus)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var st struct {
		Status
		Error string `json:"error"`
	}
	if err := json.NewDecoder(io.LimitReader(conn, maxAnswer)).Decode(&st); err != nil {
		return nil, fmt.Errorf("its answer makes no sense: %w", err)
	}
	if st.Error != "" {
		return nil, errors.New(st.Error)
	}
	return &st.Status, nil
}

// ask has the process that serves a stack do something. What it tells meanwhile goes
// to the sink of ctx.
func (r *Run) ask(ctx context.Context, word string, arg, result any) error {
	up, err := r.Up()
	if err == nil && !up {
		err = ErrNotUp
	}
	if err != nil {
		return fmt.Errorf("stack '%s' %w", r.Name, err)
	}
	text, err := json.Marshal(arg)
	if err != nil {
		return err
	}
	conn, err := connect(ctx, r.Dir, word+" "+string(text))
	if err != nil {
		return fmt.Errorf("stack '%s': %w", r.Name, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	final, err := follow(ctx, conn)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("stack '%s': %w", r.Name, err)
	}
	return json.Unmarshal(final, result)
}

// follow hands on what is told, up to the result.
func follow(ctx context.Context, conn io.Reader) (json.RawMessage, error) {
	sink, parent := activity.SinkOf(ctx)
	lines := bufio.NewReaderSize(conn, 64<<10)
	started := map[uint64]bool{}
	defer func() {
		for id := range started {
			sink.Stop(id)
		}
	}()
	for {
		line, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			return nil, errors.New("its process gave up the connection; it may not serve this user")
		}
		if err != nil {
			return nil, err
		}
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			return nil, fmt.Errorf("its answer makes no sense: %w", err)
		}
		m.foreign(parent)
		switch {
		case m.Error != "":
			return nil, errors.New(m.Error)
		case m.Result != nil:
			return m.Result, nil
		case sink == nil:
		case m.Log != nil:
			sink.Log(m.Log.Level, m.Log.Text)
		case m.Start != nil:
			started[m.Start.ID] = true
			sink.Start(*m.Start)
		case m.Tell != nil && started[m.Tell.ID]:
			sink.Result(m.Tell.ID, m.Tell.What, m.Tell.Fields)
		case started[m.Stop]:
			delete(started, m.Stop)
			sink.Stop(m.Stop)
		}
	}
}

// foreign gives the activities of another process numbers that are none of ours.
func (m *message) foreign(parent uint64) {
	const theirs = 1 << 62
	switch {
	case m.Start != nil:
		m.Start.ID |= theirs
		if m.Start.Parent != 0 {
			parent = m.Start.Parent | theirs
		}
		m.Start.Parent = parent
	case m.Tell != nil:
		m.Tell.ID |= theirs
	case m.Stop != 0:
		m.Stop |= theirs
	}
}

// readLine reads a line of at most maxAnswer bytes.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
		if len(line) > maxAnswer {
			return nil, fmt.Errorf("a line of its answer has more than %d bytes", maxAnswer)
		}
	}
}
