package filetransfer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// secure starts a server whose certificate is signed by itself, and gives the
// file with that.
func secure(t *testing.T, h http.HandlerFunc, change func(*httptest.Server)) (*httptest.Server, string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.EnableHTTP2 = true
	if change != nil {
		change(s)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(file, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return s, file
}

func direct(*url.URL) (*url.URL, error) { return nil, nil }

func newClient(t *testing.T, opts Options) *Client {
	t.Helper()
	if opts.Proxy == nil {
		opts.Proxy = direct
	}
	c := New(opts)
	t.Cleanup(c.CloseIdle)
	return c
}

func protocol(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }

func TestHTTP2(t *testing.T) {
	s, ca := secure(t, protocol, nil)
	for want, opts := range map[string]Options{"HTTP/2.0": {CAFile: ca}, "HTTP/1.1": {CAFile: ca, NoHTTP2: true}} {
		body, _, err := get(t, newClient(t, opts), &Request{URL: parsed(t, s.URL)})
		if err != nil || body != want {
			t.Errorf("%s: %q, %v", want, body, err)
		}
	}
}

// Bodies that break go on over HTTP/2 as well, where it is a stream that is reset.
func TestHTTP2Resume(t *testing.T) {
	f := &flaky{body: numbers(300_000), after: 100_000, breaks: 1, header: http.Header{"Etag": {`"one"`}}}
	s, ca := secure(t, f.ServeHTTP, nil)
	body, _, err := get(t, newClient(t, Options{CAFile: ca, Attempts: 2}), &Request{URL: parsed(t, s.URL)})
	if err != nil || body != string(f.body) || len(f.asked) != 2 {
		t.Errorf("%d bytes, asked %q: %v", len(body), f.asked, err)
	}
}

func TestHTTP2Upload(t *testing.T) {
	shelf := &shelf{fail: times(1, unavailable)}
	s, ca := secure(t, shelf.ServeHTTP, nil)
	data := numbers(3 << 20)
	_, err := newClient(t, Options{CAFile: ca, Attempts: 2}).Put(t.Context(), &Request{URL: parsed(t, s.URL), Body: Bytes(data), Size: -1})
	if err != nil || shelf.kept != string(data) {
		t.Errorf("%d bytes: %v", len(shelf.kept), err)
	}
}

// A host that is not believed is named, and is not asked again.
func TestCertificates(t *testing.T) {
	s, ca := secure(t, protocol, nil)
	other := filepath.Join(t.TempDir(), "other.pem")
	if err := os.WriteFile(other, certificate(t, "other").pem, 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	u := parsed(t, s.URL)
	wrong := *u
	wrong.Host = "localhost:" + u.Port()
	for name, c := range map[string]struct {
		ca   string
		url  *url.URL
		text string
	}{
		"unknown authority": {other, u, "unknown authority"},
		"another name":      {ca, &wrong, "localhost"},
		"no file":           {filepath.Join(t.TempDir(), "none"), u, "no such file"},
		"no certificate":    {empty, u, "no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, _, err := get(t, newClient(t, Options{CAFile: c.ca, Attempts: 9}), &Request{URL: c.url})
			fault, ok := errors.AsType[*TLSError](err)
			if !ok || fault.Host != c.url.Host || !strings.Contains(err.Error(), c.text) || !isType[*TransferError](err) {
				t.Errorf("%v", err)
			}
			if time.Since(start) > time.Minute {
				t.Error("it was tried again")
			}
		})
	}
	t.Run("http needs no authorities", func(t *testing.T) {
		plain := httptest.NewServer(http.HandlerFunc(protocol))
		defer plain.Close()
		if _, _, err := get(t, newClient(t, Options{CAFile: "/nonexistent"}), &Request{URL: parsed(t, plain.URL)}); err != nil {
			t.Error(err)
		}
		if _, _, err := get(t, newClient(t, Options{}), &Request{URL: parsed(t, strings.Replace(plain.URL, "http:", "https:", 1))}); !isType[*TLSError](err) {
			t.Errorf("https where there is none: %v", err)
		}
	})
}

type identity struct {
	cert tls.Certificate
	pem  []byte
}

func certificate(t *testing.T, name string) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return identity{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// A client certificate is for the host that the caller named.
func TestClientCertificate(t *testing.T) {
	shown := func(w http.ResponseWriter, r *http.Request) {
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		for _, c := range r.TLS.PeerCertificates {
			io.WriteString(w, c.Subject.CommonName)
		}
	}
	asking := func(s *httptest.Server) { s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert} }
	a, ca := secure(t, shown, asking)
	b, _ := secure(t, shown, asking) // httptest has one certificate for all
	c := newClient(t, Options{CAFile: ca}).WithCertificate(certificate(t, "me").cert)
	t.Cleanup(c.CloseIdle)
	for u, want := range map[string]string{
		a.URL: "me", a.URL + "?to=" + url.QueryEscape(a.URL): "me", a.URL + "?to=" + url.QueryEscape(b.URL): "",
	} {
		body, _, err := get(t, c, &Request{URL: parsed(t, u)})
		if err != nil || body != want {
			t.Errorf("%s: %q, %v", u, body, err)
		}
	}
}

// From https to http nothing goes along, not even what the netrc file has.
func TestDowngrade(t *testing.T) {
	var last string
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { last = seen(r) }))
	defer plain.Close()
	s, ca := secure(t, redirectTo(plain.URL, 302), nil)
	opts := Options{CAFile: ca, NetrcFile: writeNetrc(t, "default login them password theirs")}
	u := parsed(t, s.URL)
	u.User = url.UserPassword("me", "secret")
	_, _, err := get(t, newClient(t, opts), &Request{URL: u, Header: http.Header{"X-Token": {"token"}}})
	if err != nil || last != "" {
		t.Errorf("%q arrived: %v", last, err)
	}
	if _, _, err := get(t, newClient(t, opts), &Request{URL: parsed(t, plain.URL)}); err != nil || last != "them:theirs" {
		t.Errorf("asked directly: %q, %v", last, err)
	}
}

func TestProxies(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "proxy for "+r.URL.String()+" "+r.Header.Get("Proxy-Authorization"))
	}))
	defer proxy.Close()
	own := httptest.NewServer(http.HandlerFunc(protocol))
	defer own.Close()
	at := strings.Replace(proxy.URL, "http://", "http://u:p@", 1)
	for name, c := range map[string]struct {
		env  []string
		want string
	}{
		"for http":           {[]string{"http_proxy", at}, "proxy for http://cache.test/x Basic dTpw"},
		"for all":            {[]string{"all_proxy", at}, "proxy for http://cache.test/x Basic dTpw"},
		"for all, in large":  {[]string{"ALL_PROXY", at}, "proxy for http://cache.test/x Basic dTpw"},
		"what a request set": {[]string{"HTTP_PROXY", at}, ""},
		"for https only":     {[]string{"https_proxy", at}, ""},
		"not for some":       {[]string{"http_proxy", at, "no_proxy", "other.test,cache.test"}, ""},
		"not for some below": {[]string{"http_proxy", at, "NO_PROXY", ".test"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, name := range []string{"http_proxy", "https_proxy", "all_proxy", "no_proxy"} {
				t.Setenv(name, "")
				t.Setenv(strings.ToUpper(name), "")
			}
			for i := 0; i < len(c.env); i += 2 {
				t.Setenv(c.env[i], c.env[i+1])
			}
			client := New(Options{ConnectTimeout: 5 * time.Second})
			defer client.CloseIdle()
			if c.want == "" {
				// There is no such host: that nobody answers is the answer.
				p, err := client.opts.Proxy(parsed(t, "http://cache.test/x"))
				if p != nil || err != nil {
					t.Errorf("proxy %v, %v", p, err)
				}
				return
			}
			body, _, err := get(t, client, &Request{URL: parsed(t, "http://cache.test/x")})
			if err != nil || body != c.want {
				t.Errorf("%q: %v", body, err)
			}
		})
	}
}

// Large bodies pass through, whatever their size is.
func TestStreams(t *testing.T) {
	const size = 64 << 20
	s, ca := secure(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, io.LimitReader(bytes.NewReader(make([]byte, size)), size))
	}, nil)
	res, err := newClient(t, Options{CAFile: ca}).Get(t.Context(), &Request{URL: parsed(t, s.URL)})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil {
		t.Errorf("%d bytes: %v", n, err)
	}
}
