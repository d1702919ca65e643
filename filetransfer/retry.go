package filetransfer

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Waits between attempts. The first two are upstream's.
const (
	firstWait = 250 * time.Millisecond
	// firstWaitLimited is for 429, where the server does not say how long.
	firstWaitLimited = 60 * time.Second
	// longestWait is how long a server can make us wait. If it wants more, we
	// give up: sooner would be against its word, and later helps nobody.
	longestWait = 5 * time.Minute
)

// enough is how many bytes an attempt must bring to count as one that worked,
// after which all attempts are there again.
const enough = 1 << 20

// permanentError is hopeless.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

func permanent(err error) error { return permanentError{err} }

// again waits for the time of the next attempt, or returns err if there is to be
// none. The next one continues at byte from.
func (t *transfer) again(err error, from int64) error {
	if context.Cause(t.ctx) != nil {
		return context.Cause(t.ctx)
	}
	t.failures++
	wait, ok := t.wait(err)
	attempts := max(1, t.c.opts.Attempts)
	if !ok || t.failures >= attempts || t.spent() {
		return err
	}
	offset := ""
	if from > 0 {
		offset = "from offset " + strconv.FormatInt(from, 10) + " "
	}
	t.warn("%s; retrying %sin %d ms (attempt %d/%d)", summary(err), offset, wait.Milliseconds(), t.failures, attempts)
	return sleep(t.ctx, wait)
}

// summary is an error without what the server wrote.
func summary(err error) string {
	if status, ok := errors.AsType[*StatusError](err); ok {
		return status.summary()
	}
	return err.Error()
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// wait says how long to wait after a failure, and whether another attempt makes
// sense. Source: TransferItem::finish in upstream's src/libstore/filetransfer.cc.
func (t *transfer) wait(err error) (time.Duration, bool) {
	status, answered := errors.AsType[*StatusError](err)
	if !answered {
		return t.backoff(firstWait), t.transient(err)
	}
	if !transientStatus(status.Code) || !t.repeatable() && !didNothing(status.Code) {
		return 0, false
	}
	switch {
	case status.retryAfter > longestWait:
		return 0, false
	case status.retryAfter > 0:
		return status.retryAfter + t.backoff(firstWait)/2, true
	case status.Code == http.StatusTooManyRequests:
		return min(t.backoff(firstWaitLimited), longestWait), true
	}
	return t.backoff(firstWait), true
}

// backoff doubles with each failure, and is up to half a doubling longer, so that
// clients that failed together do not come back together.
func (t *transfer) backoff(first time.Duration) time.Duration {
	exponent := float64(min(t.failures, 16)-1) + rand.Float64()/2
	return min(time.Duration(float64(first)*math.Pow(2, exponent)), longestWait)
}

func transientStatus(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusNetworkAuthenticationRequired:
		return false
	}
	return code >= 500
}

// didNothing is for answers of a server that has not looked at the request.
func didNothing(code int) bool {
	return code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable
}

// repeatable tells whether it does not matter if the server gets it twice.
func (t *transfer) repeatable() bool { return t.method != http.MethodPost }

// transient tells whether a failure to get an answer may pass.
func (t *transfer) transient(err error) bool {
	if isType[permanentError](err) || isType[*TLSError](err) {
		return false
	}
	op, ok := errors.AsType[*net.OpError](err)
	return t.repeatable() || ok && op.Op == "dial"
}

// retryAfter reads a header of seconds or of a date, 0 if there is none.
func retryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.ParseUint(v, 10, 32); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}
