package filetransfer

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// seen is what a request brought along.
func seen(r *http.Request) string {
	user, password, ok := r.BasicAuth()
	auth := r.Header.Get("Authorization")
	if ok {
		auth = user + ":" + password
	}
	return strings.TrimSpace(auth + " " + r.Header.Get("X-Token") + " " + r.Header.Get("Cookie"))
}

func redirectTo(to string, code int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(code)
		io.WriteString(w, "<html>this way</html>")
	}
}

func writeNetrc(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "netrc")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// What a request brings along is for its own origin.
func TestCredentialsStayAtHome(t *testing.T) {
	const mine = "me:secret token session=1"
	for name, c := range map[string]struct{ to, arrives string }{
		"same origin":          {"http://a/y", mine},
		"relative":             {"/y", mine},
		"port spelled out":     {"http://A:80/y", mine},
		"another port":         {"http://a:8080/y", ""},
		"another host":         {"http://b/y", ""},
		"a name below":         {"http://sub.a/y", ""},
		"another with account": {"http://known/y", "them:theirs"},
		"user in the address":  {"http://you:yours@b/y", "you:yours"},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T, n *network) {
				var first, last string
				end := func(w http.ResponseWriter, r *http.Request) {
					last = seen(r)
					io.WriteString(w, "well")
				}
				n.serve("a:80", func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/y" {
						end(w, r)
						return
					}
					first = seen(r)
					redirectTo(c.to, 302)(w, r)
				})
				for _, host := range []string{"a:8080", "b:80", "sub.a:80", "known:80"} {
					n.serve(host, end)
				}
				client := n.client(Options{NetrcFile: writeNetrc(t, "machine known login them password theirs")})
				body, res, err := get(t, client, &Request{
					URL:    parsed(t, "http://me:secret@a/x"),
					Header: http.Header{"X-Token": {"token"}, "Cookie": {"session=1"}},
				})
				if err != nil || body != "well" || first != mine || last != c.arrives {
					t.Errorf("%q: first %q, then %q: %v", body, first, last, err)
				}
				if res.URL.User != nil || !strings.HasSuffix(res.URL.Path, "/y") {
					t.Errorf("came from %s", res.URL)
				}
			})
		})
	}
}

func TestAuthorizationStaysAtHome(t *testing.T) {
	within(t, func(t *testing.T, n *network) {
		var last string
		n.serve("a:80", redirectTo("http://b/", 307))
		n.serve("b:80", func(w http.ResponseWriter, r *http.Request) { last = seen(r); io.WriteString(w, "x") })
		_, _, err := get(t, n.client(Options{}), &Request{URL: parsed(t, "http://a/x"), Header: http.Header{"authorization": {"Bearer x"}}})
		if err != nil || last != "" {
			t.Errorf("%q arrived: %v", last, err)
		}
	})
}

func TestRedirects(t *testing.T) {
	for name, c := range map[string]struct {
		to   string
		code int
		err  error
	}{
		"in circles":   {"http://a/x", 301, ErrRedirects},
		"to a file":    {"file:///etc/passwd", 302, errScheme},
		"to ftp":       {"ftp://a/x", 302, errScheme},
		"to nonsense":  {"http://[::1/", 302, nil},
		"to nowhere":   {"", 302, nil},
		"not modified": {"http://a/x", 300, nil},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T, n *network) {
				asked := 0
				n.serve("a:80", func(w http.ResponseWriter, r *http.Request) {
					asked++
					if c.to != "" {
						w.Header().Set("Location", c.to)
					}
					w.WriteHeader(c.code)
				})
				_, _, err := get(t, n.client(Options{Attempts: 3}), &Request{URL: parsed(t, "http://a/x")})
				if err == nil || c.err != nil && !errors.Is(err, c.err) || asked > maxRedirects+1 {
					t.Errorf("asked %d times: %v", asked, err)
				}
			})
		})
	}
	t.Run("as many as there may be", func(t *testing.T) {
		within(t, func(t *testing.T, n *network) {
			n.serve("a:80", func(w http.ResponseWriter, r *http.Request) {
				if len(r.URL.Path) > maxRedirects {
					io.WriteString(w, "well")
					return
				}
				redirectTo(r.URL.Path+"x", 308)(w, r)
			})
			body, _, err := get(t, n.client(Options{}), &Request{URL: parsed(t, "http://a/")})
			if err != nil || body != "well" {
				t.Errorf("%q: %v", body, err)
			}
		})
	})
}

func TestMethodsAfterRedirects(t *testing.T) {
	for _, c := range []struct {
		method string
		code   int
		then   string
	}{
		{"GET", 301, "GET"}, {"GET", 303, "GET"}, {"HEAD", 303, "HEAD"}, {"HEAD", 302, "HEAD"},
		{"PUT", 301, "PUT"}, {"PUT", 307, "PUT"}, {"PUT", 308, "PUT"}, {"PUT", 303, "GET"},
		{"POST", 302, "GET"}, {"POST", 307, "POST"}, {"DELETE", 302, "DELETE"}, {"DELETE", 308, "DELETE"},
	} {
		within(t, func(t *testing.T, n *network) {
			var method, body string
			n.serve("a:80", redirectTo("http://b/y", c.code))
			n.serve("b:80", func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				method, body = r.Method, string(b)
			})
			client := n.client(Options{})
			req := &Request{URL: parsed(t, "http://a/x"), Body: Bytes([]byte("data")), Size: 4}
			_, err := client.begin(t.Context(), c.method, req).call()
			want := ""
			if c.then == "PUT" || c.then == "POST" {
				want = "data"
			}
			if err != nil || method != c.then || body != want {
				t.Errorf("%s, %d: %s with %q: %v", c.method, c.code, method, body, err)
			}
		})
	}
}
