package filetransfer

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// raw makes a host that answers each request with the same bytes, whatever they
// are, and hangs up.
func (n *network) raw(address string, answer func(w io.Writer)) {
	l := &listener{conns: make(chan net.Conn), done: make(chan struct{})}
	n.mu.Lock()
	n.hosts[address] = l
	n.mu.Unlock()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				answer(c)
			}
			c.Close()
		}
	}()
	n.t.Cleanup(func() { l.Close() })
}

// What is no HTTP is an error, and costs neither memory nor time.
func TestHostileServers(t *testing.T) {
	endless := func(begin, line string) func(io.Writer) {
		return func(w io.Writer) {
			io.WriteString(w, begin)
			for {
				if _, err := io.WriteString(w, line); err != nil {
					return
				}
			}
		}
	}
	send := func(text string) func(io.Writer) {
		return func(w io.Writer) { io.WriteString(w, text) }
	}
	for name, answer := range map[string]func(io.Writer){
		"nothing":            send(""),
		"no HTTP":            send("SSH-2.0-OpenSSH\r\n\r\n"),
		"a strange status":   send("HTTP/1.1 99999 OK\r\n\r\n"),
		"no header":          send("HTTP/1.1 200 OK\r\nwhat\r\n\r\n"),
		"negative length":    send("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"),
		"two lengths":        send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
		"a huge length":      send("HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\nhello"),
		"no chunk":           send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello"),
		"a negative chunk":   send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello"),
		"no last chunk":      send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
		"another coding":     send("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello"),
		"endless headers":    endless("HTTP/1.1 200 OK\r\n", "X: "+strings.Repeat("x", 1000)+"\r\n"),
		"an endless header":  endless("HTTP/1.1 200 OK\r\n", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
		"endless beginnings": endless("", "HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n"),
		"a malformed place":  send("HTTP/1.1 302 Found\r\nLocation: http://a:b:c/\r\nContent-Length: 0\r\n\r\n"),
		"an endless refusal": endless("HTTP/1.1 404 Not Found\r\nContent-Length: 99999999999\r\n\r\n", strings.Repeat("x", 1000)),
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T, n *network) {
				n.raw("a:80", answer)
				c := n.client(Options{Attempts: 2, Connections: 1})
				body, _, err := get(t, c, &Request{URL: parsed(t, "http://a/x")})
				if !isType[*TransferError](err) && !NotFound(err) {
					t.Errorf("%q: %v", body, err)
				}
				if !c.slots.TryAcquire(1) {
					t.Error("the connection still counts")
				}
			})
		})
	}
}
