package lazy

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/internal/unixsocket"
	"github.com/strata-nix/strata/storepath"
)

// User is somebody who uses a cache's objects, by a mount for instance.
type User struct {
	// Dirs are where processes see the objects.
	Dirs []string
	// Forget, if not nil, is called when objects have been taken out of the directory of objects, and
	// before they are deleted. When it returns, nobody finds them any more who has not found them already. It
	// is for those who have made that directory a lower of an overlay. An error keeps the objects.
	Forget func(ctx context.Context, names []string) error
}

// user is a User as others see it: what is written in its file.
type user struct {
	Dirs   []string `json:"dirs"`
	Store  string   `json:"store,omitempty"`  // the store directory
	Socket string   `json:"socket,omitempty"` // where it wants to be told, relative to the users' directory

	name string // of its file
}

// unready ends the name of a user's file until all is written in it.
const unready = ".new"

// forgetTimeout is how long a user may take to forget.
const forgetTimeout = 30 * time.Second

// Register makes a user known to all who evict objects, until done is called or the process
// ends.
func (c *Cache) Register(ctx context.Context, u User) (done func() error, err error) {
	name := c.at(usersDir, rand.Text())
	lock, err := flock.OpenLive(ctx, name+unready, nil)
	if err != nil {
		return nil, fmt.Errorf("cache of lazy objects: %w", err)
	}
	note := user{Dirs: u.Dirs, Store: string(c.o.StoreDir)}
	end := func() error {
		return errors.Join(ignoreMissing(os.Remove(name)), ignoreMissing(os.Remove(name+unready)), lock.Close())
	}
	if u.Forget != nil {
		l, err := unixsocket.Listen(name + ".socket")
		if err != nil {
			return nil, errors.Join(err, end())
		}
		note.Socket = filepath.Base(name) + ".socket"
		var served sync.WaitGroup
		served.Go(func() { answerForget(ctx, l, u.Forget) })
		file := end
		end = func() error {
			err := errors.Join(file(), l.Close()) // in this order: who cannot be told is no user any more
			served.Wait()
			return errors.Join(err, ignoreMissing(os.Remove(name+".socket")))
		}
	}
	text, err := json.Marshal(note)
	if err == nil {
		_, err = lock.File().WriteAt(text, 0)
	}
	if err == nil {
		err = os.Rename(name+unready, name) // whoever evicts reads all of it
	}
	if err != nil {
		return nil, errors.Join(err, end())
	}
	return end, nil
}

// answerForget lets those who evict tell a user what is gone.
func answerForget(ctx context.Context, l net.Listener, forget func(context.Context, []string) error) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_ = conn.SetDeadline(time.Now().Add(forgetTimeout))
		line, err := bufio.NewReaderSize(conn, 64<<10).ReadString('\n')
		if err == nil {
			answer := "ok"
			if err := forget(ctx, strings.Fields(line)); err != nil {
				answer = strings.ReplaceAll(err.Error(), "\n", " ")
			}
			_, _ = fmt.Fprintln(conn, answer) // who does not hear it keeps the objects
		}
		_ = conn.Close()
	}
}

// users are those that are alive.
func (c *Cache) users() ([]user, error) {
	names, err := readNames(c.at(usersDir))
	if err != nil {
		return nil, err
	}
	var all []user
	for _, name := range names {
		if strings.HasSuffix(name, ".socket") {
			continue
		}
		u, alive, err := c.user(name)
		if err != nil {
			return nil, err
		}
		if alive {
			all = append(all, u)
		}
	}
	return all, nil
}

// user reads the file of a user. That of one who has ended is removed. One who is about to be a user is none yet.
func (c *Cache) user(name string) (u user, alive bool, err error) {
	path := c.at(usersDir, name)
	f, free, err := lockFree(path)
	if errors.Is(err, os.ErrNotExist) {
		return u, false, nil
	}
	if err != nil {
		return u, false, err
	}
	defer f.Close()
	if free {
		return u, false, removeUser(path)
	}
	if strings.HasSuffix(name, unready) {
		return u, false, nil // it has not seen anything yet
	}
	text, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return u, false, err
	}
	if err := json.Unmarshal(text, &u); err != nil {
		return u, false, fmt.Errorf("'%s': %w", path, err)
	}
	u.name = name
	return u, true, nil
}

// lockFree opens a file that is there, and locks it if nobody else has. It makes none: the name may be another one's
// by now.
func lockFree(path string) (f *os.File, free bool, err error) {
	if f, err = os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0); err != nil {
		return nil, false, err
	}
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil && err != unix.EWOULDBLOCK {
		return nil, false, errors.Join(&os.PathError{Op: "flock", Path: path, Err: err}, f.Close())
	}
	return f, err == nil, nil
}

// removeUser removes the file of a user, and its socket.
func removeUser(path string) error {
	return errors.Join(os.RemoveAll(strings.TrimSuffix(path, unready)+".socket"), os.RemoveAll(path))
}

// forget tells all users what has been taken out of the directory of objects. When it
// returns without an error, they have looked again.
func (c *Cache) forget(ctx context.Context, moved []held) error {
	users, err := c.users()
	if err != nil {
		return err
	}
	names := make([]string, len(moved))
	for i, h := range moved {
		names[i] = h.path.Base()
	}
	for _, u := range users {
		if u.Socket == "" || filepath.Base(u.Socket) != u.Socket {
			continue
		}
		if err := c.tellForget(ctx, u.Socket, names); err != nil {
			if _, alive, uerr := c.user(u.name); uerr == nil && !alive {
				continue // it has just ended
			}
			return fmt.Errorf("nothing is evicted, as a user of the cache cannot be told (%v): %w", u.Dirs, err)
		}
	}
	return nil
}

// forgetBatch is how many names are told at once.
const forgetBatch = 200

func (c *Cache) tellForget(ctx context.Context, socket string, names []string) error {
	for len(names) > 0 {
		n := min(len(names), forgetBatch)
		dialing, cancel := context.WithTimeout(ctx, forgetTimeout)
		conn, err := unixsocket.Dial(dialing, c.at(usersDir, socket))
		cancel()
		if err != nil {
			return err
		}
		_ = conn.SetDeadline(time.Now().Add(forgetTimeout))
		_, err = fmt.Fprintln(conn, strings.Join(names[:n], " "))
		var answer string
		if err == nil {
			answer, err = bufio.NewReader(conn).ReadString('\n')
		}
		_ = conn.Close()
		if err != nil {
			return err
		}
		if answer != "ok\n" {
			return errors.New(strings.TrimSpace(answer))
		}
		names = names[n:]
	}
	return nil
}

// fetching keeps anybody from fetching an object.
type fetching struct{ *flock.Lock }

// done lets others again.
func (f fetching) done() {
	f.Delete()
	_ = f.Close()
}

// tryFetch keeps others from fetching an object, nil if somebody just does.
func (c *Cache) tryFetch(p storepath.Path) *fetching {
	l, err := flock.Open(c.at(fetchDir, p.HashPart()))
	if err != nil {
		return nil
	}
	ok, err := l.Try(flock.Exclusive)
	stale, serr := l.Marked()
	if !ok || err != nil || serr != nil || stale {
		_ = l.Close()
		return nil
	}
	return &fetching{l}
}
