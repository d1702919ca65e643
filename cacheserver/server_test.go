package cacheserver

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strata-nix/strata/internal/memstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// running is a server that accepts connections.
type running struct {
	t     *testing.T
	addr  string
	stop  context.CancelFunc
	ended chan error
}

func start(t *testing.T, o Options) *running {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{t: t, addr: l.Addr().String(), stop: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- s.Serve(ctx, l) }()
	t.Cleanup(cancel)
	return r
}

func (r *running) end() error {
	r.stop()
	return <-r.ended
}

// dial connects and says something.
func (r *running) dial(text string) net.Conn {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, text); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// stepwise gives half of a NAR, and the rest when it is let.
type stepwise struct {
	wrapped
	half  chan struct{}
	goOn  chan struct{}
	ended chan error
}

// NarFromPath implements store.NarSource.
func (s *stepwise) NarFromPath(ctx context.Context, _ storepath.Path, w io.Writer) error {
	err := func() error {
		if _, err := w.Write(make([]byte, 100_000)); err != nil {
			return err
		}
		close(s.half)
		select {
		case <-s.goOn:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		_, err := w.Write(make([]byte, 100_000))
		return err
	}()
	s.ended <- err
	return err
}

// slowStore has one object of 200000 bytes, whatever they are.
func slowStore(t *testing.T) (*stepwise, string) {
	t.Helper()
	st := memstore.New(dir)
	o := storetest.File(t, dir, "slow", strings.Repeat("x", 200_000-112))
	if len(o.NAR) != 200_000 {
		t.Fatal(len(o.NAR))
	}
	if err := st.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{}); err != nil {
		t.Fatal(err)
	}
	n := narName{hashPart: o.Path().HashPart(), hash: o.Info.NarHash, method: "none"}
	return &stepwise{wrapped{st}, make(chan struct{}), make(chan struct{}), make(chan error, 1)}, "/" + n.url()
}

func TestRequestsMayFinish(t *testing.T) {
	st, url := slowStore(t)
	r := start(t, Options{Store: st, DrainTimeout: time.Hour})
	resp, err := http.Get("http://" + r.addr + url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	<-st.half
	r.stop()
	for { // until it does not listen any more
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			break
		}
		_ = c.Close()
	}
	close(st.goOn)
	if body, err := io.ReadAll(resp.Body); err != nil || len(body) != 200_000 {
		t.Errorf("%d bytes, %v", len(body), err)
	}
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
}

func TestRequestsThatDoNotFinishAreCut(t *testing.T) {
	st, url := slowStore(t)
	r := start(t, Options{Store: st, DrainTimeout: time.Millisecond})
	resp, err := http.Get("http://" + r.addr + url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	<-st.half
	if err := r.end(); err != nil {
		t.Error(err)
	}
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("%d bytes and no error", len(body))
	}
	if err := <-st.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("reading the store ended with %v", err)
	}
}

func TestAClientThatGoesAwayEndsTheReading(t *testing.T) {
	st, url := slowStore(t)
	r := start(t, Options{Store: st})
	c := r.dial("GET " + url + " HTTP/1.1\r\nHost: x\r\n\r\n")
	<-st.half
	_ = c.Close()
	if err := <-st.ended; err == nil {
		t.Error("it was read to the end")
	}
}

func TestClientsThatDawdleAreCutOff(t *testing.T) {
	st := memstore.New(dir)
	o := storetest.File(t, dir, "large", strings.Repeat("x", 64<<20))
	if err := st.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{}); err != nil {
		t.Fatal(err)
	}
	url := "/" + narName{hashPart: o.Path().HashPart(), hash: o.Info.NarHash, method: "none"}.url()
	r := start(t, Options{Store: st, HeaderTimeout: 50 * time.Millisecond, IdleTimeout: 50 * time.Millisecond, StallTimeout: 50 * time.Millisecond})
	for what, text := range map[string]string{
		"nothing":         "",
		"half a request":  "GET /nix-cache-info HT",
		"endless headers": "GET / HTTP/1.1\r\n" + strings.Repeat("X: y\r\n", 10),
		"a body":          "GET /nix-cache-info HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
		"idleness":        "GET /nix-cache-info HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		c := r.dial(text)
		if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: %v", what, err)
		}
	}
	// One that reads nothing of what it asked for: it would fill all buffers.
	c := r.dial("GET " + url + " HTTP/1.1\r\nHost: x\r\n\r\n")
	for waiting := true; waiting; {
		resp, err := http.Get("http://" + r.addr + "/metrics")
		if err != nil {
			continue // this one was too slow, too
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		waiting = !strings.Contains(string(body), `requests_total{kind="nar",`)
	}
	if n, _ := io.Copy(io.Discard, c); n >= int64(len(o.NAR)) {
		t.Errorf("it got %d bytes in the end", n)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

func TestLongHeadersAreRefused(t *testing.T) {
	r := start(t, Options{Store: memstore.New(dir)})
	resp, err := http.Get("http://" + r.addr + "/" + strings.Repeat("a", 100<<10))
	if err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a long header: %v, %v", resp, err)
	} else {
		_ = resp.Body.Close()
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	r := start(t, Options{Store: memstore.New(dir), MaxConnections: 2})
	const request = "GET /nix-cache-info HTTP/1.1\r\nHost: x\r\n\r\n"
	answered := func(c net.Conn) {
		t.Helper()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp, err)
		}
	}
	a, b := r.dial(request), r.dial(request)
	answered(a)
	answered(b)
	third := r.dial(request)
	_ = a.Close()
	answered(third)
	// One more waits; the end does not wait for it.
	r.dial(request)
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// certify makes a certificate for 127.0.0.1 and its key, in files.
func certify(t *testing.T, certFile, keyFile string, serial int64) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := errors.Join(replace(certFile, certPEM), replace(keyFile, keyPEM)); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return pool
}

// replace writes a file as renewing programs do.
func replace(name string, content []byte) error {
	if err := os.WriteFile(name+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

func TestTLSWithCertificatesThatAreRenewed(t *testing.T) {
	tmp := t.TempDir()
	cert, key := filepath.Join(tmp, "cert.pem"), filepath.Join(tmp, "key.pem")
	if _, err := TLSConfig(cert, key, nil); err == nil {
		t.Error("no error about files that are not there")
	}
	pool := certify(t, cert, key, 1)
	var told []error
	cfg, err := TLSConfig(cert, key, func(err error) { told = append(told, err) })
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, Options{Store: memstore.New(dir), TLS: cfg})
	get := func(pool *x509.CertPool) (serial int64, err error) {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get("https://" + r.addr + "/")
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if resp.ProtoMajor != 2 || !strings.Contains(string(body), "https://"+r.addr) {
			err = fmt.Errorf("%s: %s", resp.Proto, body)
		}
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64(), err
	}
	if n, err := get(pool); n != 1 || err != nil {
		t.Error(n, err)
	}
	pool = certify(t, cert, key, 2)
	if n, err := get(pool); n != 2 || err != nil {
		t.Error(n, err)
	}
	if err := replace(cert, []byte("nonsense")); err != nil {
		t.Fatal(err)
	}
	if n, err := get(pool); n != 2 || err != nil {
		t.Error("with a file that is none:", n, err)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
	if len(told) == 0 {
		t.Error("nobody was told")
	}
}

func TestAListenerThatBreaksIsAnError(t *testing.T) {
	s, err := New(Options{Store: memstore.New(dir)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := s.Serve(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

func TestTheStoreIsLetGoOf(t *testing.T) {
	st, url := slowStore(t)
	r := start(t, Options{Store: st, DrainTimeout: time.Millisecond})
	c := r.dial("GET " + url + " HTTP/1.1\r\nHost: x\r\n\r\n")
	<-st.half
	if err := r.end(); err != nil {
		t.Error(err)
	}
	select {
	case <-st.ended: // by the time that Serve has returned
	default:
		t.Error("the store is still in use")
	}
	_ = c.Close()
}

func TestSystemdIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	told := func() string {
		b := make([]byte, 100)
		n, err := systemd.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	r := start(t, Options{Store: memstore.New(dir)})
	if got := told(); got != "READY=1" {
		t.Errorf("first %q", got)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
	if got := told(); got != "STOPPING=1" {
		t.Errorf("then %q", got)
	}
}
