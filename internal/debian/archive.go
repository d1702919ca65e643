package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// DefaultPause is the pause between two downloads from one archive.
const DefaultPause = 50 * time.Millisecond

// attempts is how often a download is tried when the connection or the server
// fails. An answer that will not change (404) is not asked for again.
const attempts = 4

// Archive is a client of one Debian archive that keeps what it has downloaded.
// Downloads come one at a time, so it is not for concurrent use; several
// clients may share a cache directory.
type Archive struct {
	URL   string        // base URL, see Mirror; "": only the cache is used
	Cache string        // directory, made when needed
	Pause time.Duration // between downloads; 0: DefaultPause

	last time.Time // end of the last download
}

// A GoneError says that the archive does not have a file (any more). Archives
// drop a package file soon after a newer version has come.
type GoneError struct {
	File string // relative to the archive
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("%s is not, or no longer, in the archive", e.File)
}

// A ChecksumError says that a downloaded file is not the one that was pinned.
type ChecksumError struct {
	File, Got, Want string // the sums are hex SHA-256
}

func (e *ChecksumError) Error() string {
	return fmt.Sprintf("%s has SHA-256 %s, wanted %s", e.File, e.Got, e.Want)
}

// File returns the local name of a file of the archive that has the given
// SHA-256 (hex), downloading it unless the cache has it. The error is a
// *GoneError when the archive lacks it.
func (a *Archive) File(ctx context.Context, rel, sum string) (string, error) {
	if len(sum) != sha256.Size*2 {
		return "", fmt.Errorf("%s: malformed SHA-256 %q", rel, sum)
	}
	dst := filepath.Join(a.Cache, sum+"_"+path.Base(rel))
	if _, err := os.Stat(dst); err == nil {
		return dst, nil // verified before it got this name
	}
	return dst, a.download(ctx, rel, dst, sum)
}

// Index returns the local name of a compressed package index. One that was
// downloaded less than maxAge ago is taken from the cache.
func (a *Archive) Index(ctx context.Context, suite, arch string, maxAge time.Duration) (string, error) {
	rel := fmt.Sprintf("dists/%s/main/binary-%s/Packages.xz", suite, arch)
	dst := filepath.Join(a.Cache, strings.ReplaceAll(rel, "/", "_"))
	if fi, err := os.Stat(dst); err == nil && (a.URL == "" || time.Since(fi.ModTime()) < maxAge) {
		return dst, nil
	}
	return dst, a.download(ctx, rel, dst, "")
}

func (a *Archive) download(ctx context.Context, rel, dst, sum string) error {
	if a.URL == "" {
		return fmt.Errorf("%s is not in the cache: %w", rel, ErrNoMirror)
	}
	if err := os.MkdirAll(a.Cache, 0o755); err != nil {
		return err
	}
	pause := a.Pause
	if pause == 0 {
		pause = DefaultPause
	}
	for try := 1; ; try++ {
		err := sleep(ctx, time.Until(a.last.Add(pause)))
		if err != nil {
			return err
		}
		err = a.fetch(ctx, rel, dst, sum)
		a.last = time.Now()
		var gone *GoneError
		if err == nil || errors.As(err, &gone) || ctx.Err() != nil || try == attempts {
			return err
		}
		pause *= 5
	}
}

func (a *Archive) fetch(ctx context.Context, rel, dst, sum string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.URL+"/"+rel, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusGone:
		return &GoneError{File: rel}
	default:
		return fmt.Errorf("%s: the archive answers %s", rel, resp.Status)
	}
	f, err := os.CreateTemp(a.Cache, ".part-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // is gone by then if all went well
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, h), resp.Body)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("%s: %w", rel, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); sum != "" && got != sum {
		return &ChecksumError{File: rel, Got: got, Want: sum}
	}
	if err := os.Chmod(f.Name(), 0o644); err != nil {
		return err
	}
	return os.Rename(f.Name(), dst)
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
