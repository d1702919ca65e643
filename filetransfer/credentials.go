package filetransfer

import (
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// authorize gives a request what its host wants to see: what the caller said,
// the URL's user, or the netrc file's.
func (c *Client) authorize(req *http.Request, user *url.Userinfo, downgraded bool) error {
	if req.Header.Get("Authorization") != "" || downgraded {
		return nil
	}
	login, password, complete := "", "", false
	if user != nil {
		login = user.Username()
		password, complete = user.Password()
	}
	if !complete {
		accounts, err := c.netrc.read()
		if err != nil {
			return permanent(err)
		}
		if a, ok := accounts.find(req.URL.Hostname(), login); ok {
			login, password, complete = a.login, a.password, true
		}
	}
	if complete || login != "" {
		req.SetBasicAuth(login, password)
	}
	return nil
}

// A netrcFile is read again when it has changed.
type netrcFile struct {
	path string

	mu       sync.Mutex
	seen     fileState
	accounts netrc
	err      error
}

// fileState is what changes when a file does.
type fileState struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

// maxNetrc is the size of the largest netrc file, in bytes.
const maxNetrc = 1 << 20

// read gives the accounts. A file that cannot be opened has none, as for curl.
func (f *netrcFile) read() (netrc, error) {
	if f.path == "" {
		return nil, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(f.path, &st); err != nil {
		return nil, nil
	}
	now := fileState{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}
	f.mu.Lock()
	defer f.mu.Unlock()
	if now != f.seen {
		f.accounts, f.err = loadNetrc(f.path, st.Size)
		f.seen = now
	}
	return f.accounts, f.err
}

func loadNetrc(path string, size int64) (netrc, error) {
	if size > maxNetrc {
		return nil, &fs.PathError{Op: "read", Path: path, Err: unix.EFBIG}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil
	}
	accounts, err := parseNetrc(data)
	if err != nil {
		return nil, &fs.PathError{Op: "read netrc", Path: path, Err: err}
	}
	return accounts, nil
}
