package filetransfer

import (
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxExcerpt is the longest body that is shown, in bytes, as upstream does.
const maxExcerpt = 1024

// status makes an error of an answer that is none of success.
func (t *transfer) status(a *answer) error {
	e := &StatusError{Method: t.method, URL: t.url, Code: a.StatusCode, retryAfter: retryAfter(a.Header)}
	if encodings(a.Header) == nil {
		body, err := io.ReadAll(io.LimitReader(a, maxExcerpt+1))
		if err == nil && len(body) <= maxExcerpt {
			e.Body = printable(body)
		}
	}
	_, _ = io.CopyN(io.Discard, a, maxReply) // so that the connection can be used again
	return e
}

// printable is text without what a terminal would obey, empty if it is no text.
func printable(body []byte) string {
	if !utf8.Valid(body) {
		return ""
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, string(body)))
}
