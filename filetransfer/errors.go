package filetransfer

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
)

var (
	// ErrStalled is for connections on which nothing came for
	// Options.StalledTimeout.
	ErrStalled = errors.New("nothing was transferred for too long")
	// ErrChanged is for an object that is not the same any more when its
	// download was to be continued.
	ErrChanged = errors.New("it was replaced while it was downloaded")
	// ErrNoRanges is for a server that sends all of an object when it was asked for
	// a part and nothing else.
	ErrNoRanges = errors.New("the server gives no parts of objects")
	// ErrRedirects is for redirects that never end.
	ErrRedirects = errors.New("too many redirects")
	// ErrOnce is for a body that cannot be sent a second time.
	ErrOnce = errors.New("the body can be sent only once")
)

// StatusError is an answer that is none of success.
type StatusError struct {
	Method string
	URL    string // without user and password
	Code   int
	Body   string // if it is short text, with nothing in it that a terminal obeys

	retryAfter time.Duration
}

// summary is the error without what the server wrote.
func (e *StatusError) summary() string {
	return fmt.Sprintf("unable to %s '%s': HTTP error %d", verb(e.Method), e.URL, e.Code)
}

func (e *StatusError) Error() string {
	s := e.summary()
	if e.Body != "" {
		s += "\n\nresponse body:\n\n" + e.Body
	}
	return s
}

// TransferError is a request that got no answer, or no complete one.
type TransferError struct {
	Method string
	URL    string // without user and password
	// Err says what happened. It wraps one of the errors above, a *TLSError, an
	// error of package net, or an error of package compress for a body that
	// could not be decoded.
	Err error
}

func (e *TransferError) Error() string {
	return fmt.Sprintf("unable to %s '%s': %v", verb(e.Method), e.URL, e.Err)
}

func (e *TransferError) Unwrap() error { return e.Err }

// TLSError is a host whose certificate was not accepted, or with which no
// secure connection could be agreed upon.
type TLSError struct {
	Host string
	Err  error
}

func (e *TLSError) Error() string {
	return fmt.Sprintf("no secure connection to '%s': %v", e.Host, e.Err)
}

func (e *TLSError) Unwrap() error { return e.Err }

// verb is upstream's word for what a method does.
func verb(method string) string {
	switch method {
	case http.MethodPut, http.MethodPost:
		return "upload"
	case http.MethodDelete:
		return "delete"
	}
	return "download"
}

// NotFound tells that the server definitely does not have it: 404 or 410.
func NotFound(err error) bool {
	return answered(err, http.StatusNotFound, http.StatusGone)
}

// Forbidden tells that the server will not say: 401, 403 or 407. Object storage
// answers so for what is not there, unless listing is permitted, so that
// upstream takes it for NotFound in binary caches.
func Forbidden(err error) bool {
	return answered(err, http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired)
}

func answered(err error, codes ...int) bool {
	status, ok := errors.AsType[*StatusError](err)
	return ok && slices.Contains(codes, status.Code)
}
