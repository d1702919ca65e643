package filetransfer

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// maxRedirects is upstream's limit.
const maxRedirects = 10

// exchange sends the request, follows redirects, and gives the first answer that
// is none.
func (t *transfer) exchange(a *answer, headers http.Header) (*http.Response, error) {
	u, method, secure := t.req.URL, t.method, false
	for range maxRedirects + 1 {
		if err := checkURL(u); err != nil {
			return nil, err
		}
		// Once it was secure, what follows in the clear gets no credentials.
		secure = secure || u.Scheme == "https"
		req, err := t.hop(a, method, u, headers, secure && u.Scheme == "http")
		if err != nil {
			return nil, err
		}
		resp, err := t.carrier(u).RoundTrip(req)
		if err != nil {
			if tlsFault(err) && !isType[*TLSError](err) {
				err = &TLSError{Host: u.Host, Err: err}
			}
			return nil, err
		}
		next, again, err := redirect(resp, method)
		if next == nil {
			return resp, err
		}
		_, _ = io.CopyN(io.Discard, resp.Body, maxReply)
		resp.Body.Close()
		u, method = next, again
	}
	return nil, permanent(ErrRedirects)
}

// carrier shows our certificate only where the caller sent us.
func (t *transfer) carrier(u *url.URL) *carrier {
	if t.c.identified != nil && sameOrigin(u, t.req.URL) {
		return t.c.identified
	}
	return t.c.plain
}

// hop makes the request for one of the URLs on the way.
func (t *transfer) hop(a *answer, method string, u *url.URL, headers http.Header, downgraded bool) (*http.Request, error) {
	bare := *u
	bare.User, bare.Fragment, bare.RawFragment = nil, "", ""
	req := &http.Request{
		Method: method, URL: &bare, Header: maps.Clone(headers), Host: bare.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	req = req.WithContext(a.ctx)
	user := u.User
	if sameOrigin(u, t.req.URL) {
		for name, values := range t.req.Header {
			req.Header[http.CanonicalHeaderKey(name)] = values
		}
		if user == nil {
			user = t.req.URL.User
		}
	}
	if err := t.c.authorize(req, user, downgraded); err != nil {
		return nil, err
	}
	if t.req.Body != nil && !reads(method) && method != http.MethodDelete {
		t.attachBody(a, req)
	}
	return req, nil
}

// redirect says where a response leads, and with which method: nil if nowhere.
func redirect(resp *http.Response, method string) (*url.URL, string, error) {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound:
		if method == http.MethodPost {
			method = http.MethodGet // as everybody does
		}
	case http.StatusSeeOther:
		if method != http.MethodHead {
			method = http.MethodGet
		}
	case http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil, "", nil
	}
	location := resp.Header.Get("Location")
	if location == "" {
		return nil, "", nil // a status like any other
	}
	u, err := resp.Request.URL.Parse(location)
	if err != nil {
		resp.Body.Close()
		return nil, "", permanent(fmt.Errorf("redirected to what is no URL: %.200q", location))
	}
	return u, method, nil
}

// sameOrigin tells whether two URLs lead to the same server.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && authority(a) == authority(b)
}

// authority is a URL's host and port, in one spelling.
func authority(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
