package binarycache

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

func logName(drv storepath.Path) string { return "log/" + drv.Base() }

// BuildLog opens the log of the build of a derivation. What a cache calls a log has
// been compared with nothing.
func (s *Store) BuildLog(ctx context.Context, drv storepath.Path) (io.ReadCloser, error) {
	if _, err := s.readable(ctx); err != nil {
		return nil, err
	}
	name := logName(drv)
	log, _, err := s.openFile(ctx, name, objstore.GetOptions{})
	if missing(err) {
		return nil, fmt.Errorf("%w of '%s' in '%s'", store.ErrNoLog, s.o.Dir.Print(drv), s.o.URI)
	}
	if err != nil {
		return nil, s.failed("reading", name, err)
	}
	return log, nil
}

// AddBuildLog stores a log.
func (s *Store) AddBuildLog(ctx context.Context, drv storepath.Path, log io.Reader) error {
	if err := s.writable(ctx); err != nil {
		return err
	}
	name := logName(drv)
	if err := s.addLog(ctx, name, log); err != nil {
		return s.failed("writing", name, err)
	}
	return nil
}

func (s *Store) addLog(ctx context.Context, name string, log io.Reader) (err error) {
	o := objstore.PutOptions{Size: objstore.Unknown, ContentType: typeLog}
	method := s.o.LogCompression
	if method == "" || method == compress.None {
		return s.objects.Put(ctx, name, log, o)
	}
	staged, err := objstore.Stage(ctx, s.objects, "log")
	if err != nil {
		return err
	}
	defer staged.Abort()
	if err := squeeze(ctx, staged, log, method); err != nil {
		return err
	}
	o.ContentEncoding = string(method)
	err = staged.Commit(ctx, name, o)
	if errors.Is(err, errors.ErrUnsupported) {
		err = fmt.Errorf("log-compression: %w", err)
	}
	return err
}
