package filetransfer

import (
	"io"
	"net/http"
	"net/url"
)

// Request is what is wanted. A Client does not change it, and it may be used
// several times.
type Request struct {
	// URL has the scheme http or https. Its user and password, if any, go into
	// the header Authorization.
	URL *url.URL
	// Header goes to the origin of URL only (see the package comment).
	Header http.Header

	// Offset is the first byte of the object that Get is to give, Length how many
	// at most; 0 is all to the end. They count bytes as they are stored: what is
	// there in a Content-Encoding is not decoded then, and if there is nothing at
	// Offset the error is a *StatusError with code 416. A server that does not do
	// ranges costs reading what lies before Offset.
	Offset, Length int64
	// OnlyPart makes a server that does not do ranges an ErrNoRanges, unless it sends no
	// more than was asked for.
	OnlyPart bool
	// ETag is what the caller has. If the server still has the same,
	// Response.NotModified is set and the body is empty.
	ETag string
	// Raw gives bodies as they are stored or sent, without decoding what
	// Content-Encoding says.
	Raw bool
	// Compressed asks the server to compress on the way. That is good for texts
	// and bad for what is compressed already; such a body cannot be continued
	// when it breaks off.
	Compressed bool

	// Body makes what Put and Post send, anew for each attempt; see Bytes,
	// Section and Once. It is closed, possibly a moment after Put has returned.
	Body func() (io.ReadCloser, error)
	// Size of the body in bytes. -1 is unknown: it goes in chunks.
	Size int64
	// ContentType of the body; may be empty.
	ContentType string

	// Quiet makes no activity.
	Quiet bool
}

// Response is what came. Its fields are those of the last answer, after
// redirects.
type Response struct {
	// Code is 200, 201, 204, 206 or 304.
	Code   int
	Header http.Header
	// URL is where the answer came from in the end.
	URL *url.URL
	// Body is never nil. Get's breaks off with a *TransferError when it could
	// not be continued, and must be closed.
	Body io.ReadCloser
	// Size is how many bytes Body gives, for Head how many there are. -1 is
	// unknown, as it is for what is decoded.
	Size int64
	// Total is the size of the whole object where a part was asked for, -1 if
	// unknown. Otherwise it is Size.
	Total int64
	// ETag as sent, quotes and weakness included; may be empty.
	ETag string
	// NotModified tells that the object is still the one of Request.ETag.
	NotModified bool
}
