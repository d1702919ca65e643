package binarycache

import (
	"errors"
	"fmt"
	"strings"

	"github.com/strata-nix/strata/store"
)

// Causes of errors, by what whoever gets them must do. Most come in a [FileError].
var (
	// ErrBadFile: a file of the cache is not what it must be. Try another cache.
	ErrBadFile = errors.New("binary cache is not in order")
	// ErrGone: a NAR is not there although its narinfo is, as after a garbage
	// collection. What was known of it has been forgotten; ask again, or try another
	// cache. It is a store.ErrNotValid: for whoever wants the path, the cache does not
	// have it, and that is no failure.
	ErrGone error = gone{}
	// ErrStoreDir: the cache is for stores with another directory.
	ErrStoreDir = errors.New("binary cache is for another store directory")
	// ErrNotCache: there is no binary cache.
	ErrNotCache = errors.New("does not appear to be a binary cache")
)

type gone struct{}

func (gone) Error() string { return "NAR is gone from the binary cache" }
func (gone) Unwrap() error { return store.ErrNotValid }

// storeDirError is an ErrStoreDir that says which ones.
type storeDirError string

func (e storeDirError) Error() string { return string(e) }
func (storeDirError) Unwrap() error   { return ErrStoreDir }

// FileError says what is wrong with which file of which cache.
type FileError struct {
	Cache string // URI
	File  string // its name in the cache
	Why   string // may be empty, if Err says it all
	Err   error  // may be nil
}

func (e *FileError) Error() string {
	s := fmt.Sprintf("binary cache '%s'", e.Cache)
	if e.Err == nil || !strings.Contains(e.Err.Error(), e.File) {
		s += ": file '" + e.File + "'"
	}
	if e.Why != "" {
		s += ": " + e.Why
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap makes it an ErrBadFile.
func (e *FileError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrBadFile}
	}
	return []error{ErrBadFile, e.Err}
}

// bad makes a FileError.
func (s *Store) bad(file, why string, err error) error {
	return &FileError{Cache: s.o.URI, File: file, Why: why, Err: err}
}

// failed tells of a request to the cache that failed, which says nothing about the
// file. A transport that knows more than names of files has said which one.
func (s *Store) failed(op, file string, err error) error {
	if strings.Contains(err.Error(), s.o.URI+"/"+file) {
		return err
	}
	return fmt.Errorf("binary cache '%s': %s '%s': %w", s.o.URI, op, file, err)
}

// isBadFile tells that one file is wrong, and the cache could be asked.
func isBadFile(err error) bool { return errors.Is(err, ErrBadFile) }
