package cacheserver

import (
	"net/http"
	"time"
)

// stallUnit is what a client must take within the stall timeout.
const stallUnit = 64 << 10

// answerWriter counts what is sent, and gives up on a client that takes nothing.
type answerWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration
	code    int   // 0: no answer has begun
	sent    int64 // bytes of the body
	broken  error // of writing to the client
}

// extend gives the client time for the next bytes. What cannot have deadlines,
// such as a recorder in a test, goes without.
func (a *answerWriter) extend() { _ = a.control.SetWriteDeadline(time.Now().Add(a.stall)) }

// WriteHeader begins the answer.
func (a *answerWriter) WriteHeader(code int) {
	if a.code == 0 {
		a.code = code
	}
	a.ResponseWriter.WriteHeader(code)
}

// Write sends bytes of the body.
func (a *answerWriter) Write(p []byte) (n int, err error) {
	if a.code == 0 {
		a.code = http.StatusOK
	}
	for len(p) > 0 && err == nil {
		var k int
		a.extend()
		k, err = a.ResponseWriter.Write(p[:min(len(p), stallUnit)])
		n += k
		p = p[k:]
	}
	a.sent += int64(n)
	if err != nil {
		a.broken = err
	}
	return n, err
}

// Unwrap is for http.ResponseController.
func (a *answerWriter) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// status is what the client was told.
func (a *answerWriter) status() int {
	if a.code == 0 {
		return http.StatusOK
	}
	return a.code
}
