package filetransfer

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// contentRange reads which bytes of how many a part has. An unknown total is -1.
func contentRange(h http.Header) (first, last, total int64, err error) {
	v := h.Get("Content-Range")
	fault := permanent(fmt.Errorf("malformed header Content-Range: %.100q", v))
	v, ok := strings.CutPrefix(v, "bytes ")
	span, size, ok2 := strings.Cut(v, "/")
	from, to, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, 0, fault
	}
	first, err1 := parseSize(from)
	last, err2 := parseSize(to)
	total, err3 := int64(-1), error(nil)
	if size != "*" {
		total, err3 = parseSize(size)
	}
	if err1 != nil || err2 != nil || err3 != nil || last < first || total >= 0 && last >= total {
		return 0, 0, 0, fault
	}
	return first, last, total, nil
}

// parseSize reads a number without a sign that can be added to.
func parseSize(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 62)
	return int64(n), err
}

// validator is what identifies an object well enough to put parts of it
// together: a strong tag, or else a time of modification that was long enough
// before the answer that the object cannot have changed again in the same
// second. Source: RFC 9110, 8.8.2.2 and 13.1.5.
func validator(h http.Header) string {
	if h.Get("Accept-Ranges") == "none" {
		return ""
	}
	if tag := h.Get("ETag"); strings.HasPrefix(tag, `"`) && len(tag) > 2 {
		return tag
	}
	modified, err1 := http.ParseTime(h.Get("Last-Modified"))
	date, err2 := http.ParseTime(h.Get("Date"))
	if err1 != nil || err2 != nil || date.Sub(modified) < time.Second {
		return ""
	}
	return h.Get("Last-Modified")
}
