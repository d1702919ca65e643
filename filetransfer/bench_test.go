package filetransfer

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

func benchServer(b *testing.B, size int) (*Client, *Request) {
	data := numbers(size)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(data) }))
	b.Cleanup(s.Close)
	opts := DefaultOptions()
	opts.Proxy, opts.NetrcFile = direct, ""
	c := New(opts)
	b.Cleanup(c.CloseIdle)
	return c, &Request{URL: parsed(b, s.URL)}
}

func drain(b *testing.B, c *Client, req *Request) {
	res, err := c.Get(b.Context(), req)
	if err == nil {
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	if err != nil {
		b.Error(err)
	}
}

// BenchmarkSmall is for narinfos: many at once.
func BenchmarkSmall(b *testing.B) {
	c, req := benchServer(b, 1000)
	b.ReportAllocs()
	for b.Loop() {
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { drain(b, c, req) })
		}
		wg.Wait()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/100, "µs/request")
}

func BenchmarkLarge(b *testing.B) {
	const size = 64 << 20
	c, req := benchServer(b, size)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		drain(b, c, req)
	}
}
