package main

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// link is how a server is reached. The zero value is the loopback interface as it is.
type link struct {
	delay time.Duration // of each round trip
	rate  float64       // bytes a second, of all connections together; 0: as fast as it goes
}

// farAway is what lazy stores are for.
var farAway = link{delay: 20 * time.Millisecond, rate: 100e6 / 8}

// cacheServer serves a binary cache over a link.
type cacheServer struct {
	uri  string
	sent atomic.Int64 // bytes, with headers
	http *http.Server
	link link

	mu   sync.Mutex
	free time.Time // when the link has nothing to send any more
}

// serveCache begins to serve.
func serveCache(h http.Handler, l link) (*cacheServer, error) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &cacheServer{uri: "http://" + tcp.Addr().String(), link: l}
	s.http = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(l.delay)
		h.ServeHTTP(w, r)
	})}
	go func() { _ = s.http.Serve(&linked{tcp, s}) }()
	return s, nil
}

func (s *cacheServer) close() error { return s.http.Close() }

// linked is a listener whose connections share the link.
type linked struct {
	net.Listener
	s *cacheServer
}

func (l *linked) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &linkedConn{Conn: c, s: l.s}, nil
}

// linkedConn is a connection whose first answer takes a round trip more, as its beginning does.
type linkedConn struct {
	net.Conn
	s    *cacheServer
	once sync.Once
}

// step is how much is sent at once, so that connections take turns.
const step = 32 << 10

func (c *linkedConn) Write(p []byte) (int, error) {
	c.once.Do(func() { time.Sleep(c.s.link.delay) })
	done := 0
	for done < len(p) {
		part := p[done:min(len(p), done+step)]
		c.s.wait(len(part))
		n, err := c.Conn.Write(part)
		done += n
		c.s.sent.Add(int64(n))
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// wait waits until n bytes are through.
func (s *cacheServer) wait(n int) {
	if s.link.rate == 0 {
		return
	}
	s.mu.Lock()
	now := time.Now()
	if s.free.Before(now) {
		s.free = now
	}
	s.free = s.free.Add(time.Duration(float64(n) / s.link.rate * float64(time.Second)))
	until := s.free
	s.mu.Unlock()
	time.Sleep(time.Until(until))
}

// name is for people, and for names of rows.
func (l link) name() string {
	if l.rate == 0 {
		return "near"
	}
	return "far"
}

func (l link) what() string {
	if l.rate == 0 {
		return "over loopback"
	}
	return "at 100 Mbit/s and 20 ms"
}
