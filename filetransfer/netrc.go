package filetransfer

import (
	"fmt"
	"strings"
)

// netrc is a list of accounts, in the order of the file.
//
//	machine cache.example.org   login alice  password "with a blank"
//	machine other.example.org   password only-a-token
//	default  login anonymous  password me@example.org
//
// Words are separated by blanks and line ends. One in double quotes may hold
// blanks, and \" \\ \n \r \t; one that begins with # is the rest of its line's
// comment. macdef begins a macro, which an empty line ends and which nobody runs.
// Source: curl's lib/netrc.c and its documentation of the file.
type netrc []account

type account struct {
	host            string // lower case; empty for default, which fits all
	login, password string
}

// find gives the first account for a host, with the given login unless that is
// empty. Nothing after a default counts.
func (n netrc) find(host, login string) (account, bool) {
	host = strings.ToLower(host)
	for _, a := range n {
		fits := a.host == "" || a.host == host
		if fits && (login == "" || a.login == "" || a.login == login) {
			if a.login == "" {
				a.login = login
			}
			return a, a != account{host: a.host}
		}
	}
	return account{}, false
}

func parseNetrc(data []byte) (netrc, error) {
	var (
		n       netrc
		current account
		named   bool // there is a current account
	)
	s := &netrcScanner{text: string(data), line: 1}
	flush := func() {
		if named {
			n = append(n, current)
		}
		current, named = account{}, false
	}
	for {
		word, ok, err := s.word()
		if err != nil {
			return nil, err
		}
		if !ok {
			flush()
			return n, nil
		}
		var into *string
		switch strings.ToLower(word) {
		case "machine":
			flush()
			named, into = true, &current.host
		case "default":
			flush()
			named = true
		case "login":
			into = &current.login
		case "password":
			into = &current.password
		case "account":
			into = new(string)
		case "macdef":
			s.skipMacro()
		}
		if into == nil {
			continue // words that we do not know mean nothing
		}
		if *into, ok, err = s.word(); err != nil || !ok || *into == "" && into == &current.host {
			return nil, fmt.Errorf("line %d: nothing after '%s'", s.line, word)
		}
		current.host = strings.ToLower(current.host)
	}
}

// A netrcScanner finds words.
type netrcScanner struct {
	text string // what is left
	line int
}

func (s *netrcScanner) take(n int) string {
	t := s.text[:n]
	s.text = s.text[n:]
	s.line += strings.Count(t, "\n")
	return t
}

const netrcBlank = " \t\r\n"

func (s *netrcScanner) word() (string, bool, error) {
	for {
		s.take(len(s.text) - len(strings.TrimLeft(s.text, netrcBlank)))
		switch {
		case s.text == "":
			return "", false, nil
		case s.text[0] == '#':
			s.take(upTo(s.text, "\n"))
		case s.text[0] == '"':
			w, err := s.quoted()
			return w, true, err
		default:
			return s.take(upTo(s.text, netrcBlank)), true, nil
		}
	}
}

// upTo is where one of some characters is, or the end.
func upTo(text, chars string) int {
	if i := strings.IndexAny(text, chars); i >= 0 {
		return i
	}
	return len(text)
}

// quoted takes a word in quotes, which ends on its line.
func (s *netrcScanner) quoted() (string, error) {
	var b strings.Builder
	for i := 1; i < len(s.text) && s.text[i] != '\n'; i++ {
		c := s.text[i]
		switch {
		case c == '"':
			s.take(i + 1)
			return b.String(), nil
		case c == '\\' && i+1 < len(s.text) && s.text[i+1] != '\n':
			i++
			switch c = s.text[i]; c {
			case 'n':
				c = '\n'
			case 'r':
				c = '\r'
			case 't':
				c = '\t'
			}
		}
		b.WriteByte(c)
	}
	return "", fmt.Errorf("line %d: quotes that do not end", s.line)
}

// skipMacro goes to the empty line that ends a macro.
func (s *netrcScanner) skipMacro() {
	for s.text != "" {
		s.take(min(upTo(s.text, "\n")+1, len(s.text)))
		if end := upTo(s.text, "\n"); strings.Trim(s.text[:end], netrcBlank) == "" {
			return
		}
	}
}
