package filetransfer

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/strata-nix/strata/compress"
)

func okSeen(last *string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		*last = seen(r)
		io.WriteString(w, "well")
	}
}

func packed(t *testing.T, m compress.Method, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := compress.NewWriter(t.Context(), m, &b, compress.Options{Level: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestEncodings(t *testing.T) {
	data := numbers(50_000)
	gz := packed(t, compress.Gzip, data)
	for name, c := range map[string]struct {
		encoding string
		sent     []byte
		want     []byte // nil: an error
	}{
		"identity":  {"identity", data, data},
		"gzip":      {"gzip", gz, data},
		"x-gzip":    {"X-GZIP", gz, data},
		"br":        {"br", packed(t, compress.Brotli, data), data},
		"zstd":      {"zstd", packed(t, compress.Zstd, data), data},
		"xz":        {"xz", packed(t, compress.XZ, data), data},
		"bzip2":     {"bzip2", packed(t, compress.Bzip2, data), data},
		"two":       {"gzip, zstd", packed(t, compress.Zstd, gz), data},
		"three":     {"gzip, gzip, gzip", gz, nil},
		"of S3":     {"gzip,aws-chunked", gz, data},
		"unknown":   {"rot13", gz, nil},
		"deflate":   {"deflate", gz, nil},
		"truncated": {"gzip", gz[:len(gz)/2], nil},
		"a lie":     {"zstd", gz, nil},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T, n *network) {
				n.serve("a:80", func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Encoding", c.encoding)
					w.Header().Set("ETag", `"one"`)
					http.ServeContent(w, r, "x", noTime, bytes.NewReader(c.sent))
				})
				client := n.client(Options{Connections: 1, Attempts: 3})
				body, res, err := get(t, client, &Request{URL: parsed(t, "http://a/x")})
				if c.want == nil {
					if !isType[*TransferError](err) {
						t.Errorf("%d bytes: %v", len(body), err)
					}
				} else if err != nil || body != string(c.want) || res.Size >= 0 && name != "identity" {
					t.Errorf("%d bytes, size %d: %v", len(body), res.Size, err)
				}
				// As it is stored, whole or in part, it is not decoded.
				for _, req := range []*Request{{Raw: true}, {Offset: 5}} {
					req.URL = parsed(t, "http://a/x")
					body, res, err := get(t, client, req)
					if want := c.sent[req.Offset:]; err != nil || body != string(want) || req.Offset > 0 && res.Size != int64(len(want)) {
						t.Errorf("as stored: %d bytes: %v", len(body), err)
					}
				}
				if !client.slots.TryAcquire(1) {
					t.Error("a connection still counts")
				}
			})
		})
	}
}

// A body that is decoded is not put together from two: the second may be encoded
// in another way.
func TestEncodedBodiesDoNotGoOn(t *testing.T) {
	within(t, func(t *testing.T, n *network) {
		f := flaky{body: packed(t, compress.Gzip, numbers(100_000)), after: 1000, breaks: 1,
			header: http.Header{"Etag": {`"one"`}, "Content-Encoding": {"gzip"}}}
		n.serve("a:80", f.ServeHTTP)
		_, _, err := get(t, n.client(Options{Attempts: 3}), &Request{URL: parsed(t, "http://a/x")})
		if !errors.Is(err, io.ErrUnexpectedEOF) || !isType[*TransferError](err) || len(f.asked) != 1 {
			t.Errorf("asked %q: %v", f.asked, err)
		}
	})
}

func TestAcceptEncoding(t *testing.T) {
	within(t, func(t *testing.T, n *network) {
		var accepts, agent string
		n.serve("a:80", func(w http.ResponseWriter, r *http.Request) {
			accepts, agent = r.Header.Get("Accept-Encoding"), r.UserAgent()
		})
		for want, req := range map[string]*Request{
			"identity": {}, "zstd, br, gzip": {Compressed: true}, "identity ": {Compressed: true, Raw: true}, "identity  ": {Compressed: true, Offset: 5},
		} {
			req.URL = parsed(t, "http://a/x")
			get(t, n.client(Options{UserAgentSuffix: "of mine"}), req)
			if accepts != strings.TrimSpace(want) || agent != "strata of mine" {
				t.Errorf("%+v: %q, %q", req, accepts, agent)
			}
		}
	})
}

func TestBodiesOfErrors(t *testing.T) {
	for name, c := range map[string]struct{ body, want string }{
		"text":     {"no such bucket\n", "no such bucket"},
		"lines":    {"<Error>\n\t<Code>x</Code>\n</Error>", "<Error>\n\t<Code>x</Code>\n</Error>"},
		"controls": {"a\x1b[31mb\rc\u202e", "a[31mbc"},
		"binary":   {"\xff\xfe", ""},
		"long":     {strings.Repeat("x", maxExcerpt+1), ""},
		"none":     {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T, n *network) {
				n.serve("a:80", func(w http.ResponseWriter, r *http.Request) {
					w.WriteHeader(404)
					io.WriteString(w, c.body)
				})
				_, _, err := get(t, n.client(Options{}), &Request{URL: parsed(t, "http://me:secret@a/x")})
				want := "unable to download 'http://a/x': HTTP error 404"
				if c.want != "" {
					want += "\n\nresponse body:\n\n" + c.want
				}
				if err == nil || err.Error() != want {
					t.Errorf("%q", err)
				}
			})
		})
	}
}
