package filetransfer

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"
)

// Whoever wants a part and nothing else does not read what lies before it.
func TestOnlyAPart(t *testing.T) {
	data := numbers(1000)
	for _, ranges := range []bool{true, false} {
		for _, c := range []struct {
			offset, length int64
			whole          bool // there is nothing else to be sent
		}{{0, 0, true}, {0, 1000, true}, {0, 5000, true}, {0, 10, false}, {100, 0, false}, {100, 50, false}} {
			t.Run(fmt.Sprint(ranges, c), func(t *testing.T) {
				within(t, func(t *testing.T, n *network) {
					asked := 0
					n.serve("a:80", func(w http.ResponseWriter, r *http.Request) {
						asked++
						if !ranges {
							r.Header.Del("Range")
						}
						http.ServeContent(w, r, "x", time.Time{}, bytes.NewReader(data))
					})
					body, _, err := get(t, n.client(Options{}), &Request{URL: parsed(t, "http://a/x"), Offset: c.offset, Length: c.length, OnlyPart: true})
					if ranges || c.whole {
						end := int64(len(data))
						if c.length > 0 {
							end = min(end, c.offset+c.length)
						}
						if err != nil || body != string(data[c.offset:end]) {
							t.Errorf("%q: %v", body, err)
						}
					} else if !errors.Is(err, ErrNoRanges) || body != "" {
						t.Errorf("%q: %v", body, err)
					}
					if asked != 1 {
						t.Errorf("asked %d times", asked)
					}
				})
			})
		}
	}
}
