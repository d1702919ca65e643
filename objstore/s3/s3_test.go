package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/objstore/objstoretest"
	"github.com/strata-nix/strata/objstore/s3"
)

// open opens a bucket of a server, with its credentials in the environment.
func open(t *testing.T, server *testenv.S3, o s3.Options) objstore.Store {
	t.Helper()
	for name, value := range server.Environ() {
		t.Setenv(name, value)
	}
	o.Region, o.Endpoint = server.Region, server.Endpoint
	s, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestBucket(t *testing.T) {
	server := testenv.S3Server(t)
	n := 0
	objstoretest.Run(t, func(t *testing.T) objstore.Store {
		n++
		name := fmt.Sprintf("bucket-%d", n)
		server.Bucket(t, name)
		return open(t, server, s3.Options{Bucket: name})
	})
}

func TestBelowPrefix(t *testing.T) {
	server := testenv.S3Server(t)
	server.Bucket(t, "bucket")
	n := 0
	objstoretest.Run(t, func(t *testing.T) objstore.Store {
		n++
		return open(t, server, s3.Options{Bucket: "bucket", Prefix: fmt.Sprintf("all/of it/%d", n)})
	})
}

// counting notes the requests that are made.
type counting struct {
	mu   sync.Mutex
	made []string
}

func (c *counting) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.made = append(c.made, r.Method+" "+r.URL.RequestURI())
	c.mu.Unlock()
	return http.DefaultTransport.RoundTrip(r)
}

func (c *counting) count(part string) (n int) {
	for _, m := range c.made {
		if strings.Contains(m, part) {
			n++
		}
	}
	return n
}

func TestParts(t *testing.T) {
	server := testenv.S3Server(t)
	server.Bucket(t, "bucket")
	data := bytes.Repeat([]byte("0123456789abcdef"), 13<<20/16)
	for _, c := range []struct {
		name      string
		multipart bool
		parts     int
	}{{"one", false, 0}, {"parts", true, 3}} {
		requests := &counting{}
		s := open(t, server, s3.Options{Bucket: "bucket", Multipart: c.multipart, Threshold: 6 << 20, Transport: requests})
		if err := s.Put(t.Context(), c.name, bytes.NewReader(data), objstore.PutOptions{Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if got := requests.count("partNumber="); got != c.parts {
			t.Errorf("%s: %d parts: %q", c.name, got, requests.made)
		}
		if got := objstoretest.Get(t, s, c.name); got != string(data) {
			t.Errorf("%s: %d bytes, want %d", c.name, len(got), len(data))
		}
	}
}

// An upload that fails is given up, so that nobody has to pay for its parts.
func TestPartsAreGivenUp(t *testing.T) {
	server := testenv.S3Server(t)
	server.Bucket(t, "bucket")
	requests := &failing{part: "partNumber=2"}
	s := open(t, server, s3.Options{Bucket: "bucket", Multipart: true, Threshold: 6 << 20, Transport: requests, Attempts: 1})
	err := s.Put(t.Context(), "x", bytes.NewReader(make([]byte, 13<<20)), objstore.PutOptions{Size: 13 << 20})
	if err == nil || !strings.Contains(err.Error(), "s3://bucket/x") || !strings.Contains(err.Error(), "part 2") {
		t.Errorf("%v", err)
	}
	if requests.count("DELETE") != 1 {
		t.Errorf("requests: %q", requests.made)
	}
	if _, err := s.Stat(t.Context(), "x"); !errors.Is(err, objstore.ErrNotExist) {
		t.Errorf("after that: %v", err)
	}
}

// failing answers requests with part in their URL with an error.
type failing struct {
	counting
	part string
}

func (f *failing) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.Contains(r.URL.RequestURI(), f.part) {
		return nil, errors.New("no way")
	}
	return f.counting.RoundTrip(r)
}

// cutting ends the first bodies after some bytes.
type cutting struct {
	left atomic.Int32
}

func (c *cutting) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(r)
	if err == nil && r.Method == http.MethodGet && c.left.Add(-1) >= 0 {
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(io.LimitReader(res.Body, 300_000), broken{}), res.Body}
	}
	return res, err
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestDownloadsContinue(t *testing.T) {
	server := testenv.S3Server(t)
	server.Bucket(t, "bucket")
	cuts := &cutting{}
	s := open(t, server, s3.Options{Bucket: "bucket", Transport: cuts, Attempts: 2})
	data := string(bytes.Repeat([]byte("0123456789abcdef"), 1<<20/16))
	objstoretest.Put(t, s, "x", data)
	cuts.left.Store(2)
	if got := objstoretest.Get(t, s, "x"); got != data {
		t.Errorf("%d bytes, want %d", len(got), len(data))
	}
}

func TestAccess(t *testing.T) {
	server := testenv.S3Server(t)
	server.Bucket(t, "bucket")
	s := open(t, server, s3.Options{Bucket: "bucket"})
	objstoretest.Put(t, s, "x", "x")

	// A bucket that is not there is not an empty one.
	nowhere := open(t, server, s3.Options{Bucket: "nowhere"})
	if _, _, err := nowhere.Get(t.Context(), "x", objstore.GetOptions{}); err == nil || errors.Is(err, objstore.ErrNotExist) {
		t.Errorf("no bucket: %v", err)
	}

	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	bad, err := s3.Open(t.Context(), s3.Options{Bucket: "bucket", Endpoint: server.Endpoint, Region: server.Region})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := bad.Get(t.Context(), "x", objstore.GetOptions{}); !errors.Is(err, objstore.ErrForbidden) {
		t.Errorf("wrong key: %v", err)
	}

	// Credentials of a profile, as in a file of AWS tools.
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	file := filepath.Join(t.TempDir(), "credentials")
	text := fmt.Sprintf("[cache]\naws_access_key_id = %s\naws_secret_access_key = %s\n", server.AccessKey, server.SecretKey)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	o := s3.Options{Bucket: "bucket", Endpoint: strings.TrimPrefix(server.Endpoint, "http://"), Scheme: "http", Region: server.Region, Profile: "cache"}
	p, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if got := objstoretest.Get(t, p, "x"); got != "x" {
		t.Errorf("by profile: %q", got)
	}
	o.Profile = "nobody"
	if _, err := s3.Open(t.Context(), o); err == nil {
		t.Error("a profile that is not there was found")
	}
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]s3.Options{
		"no bucket":          {},
		"bucket with slash":  {Bucket: "a/b"},
		"bucket with host":   {Bucket: "a@b"},
		"prefix upwards":     {Bucket: "b", Prefix: "../x"},
		"scheme":             {Bucket: "b", Scheme: "ftp"},
		"addressing":         {Bucket: "b", Addressing: "maybe"},
		"dot in the host":    {Bucket: "a.b", Addressing: s3.Virtual},
		"chunks too small":   {Bucket: "b", ChunkSize: 1 << 20},
		"chunks too large":   {Bucket: "b", ChunkSize: 6 << 30},
		"endpoint":           {Bucket: "b", Endpoint: "ftp://x"},
		"endpoint with none": {Bucket: "b", Endpoint: "http://"},
	} {
		if s, err := s3.Open(t.Context(), o); err == nil {
			t.Errorf("%s: %+v", name, s)
		}
	}
}
