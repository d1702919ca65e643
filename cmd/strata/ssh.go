package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/worker"
)

// sshTarget is how to reach the daemon of an ssh-ng store.
type sshTarget struct {
	user, host string
	port       int      // 0: ssh's own choice
	options    []string // NIX_SSHOPTS
	key        string   // file
	hostKey    string   // "<type> <base64>", "" if ssh is to know it
	compress   bool
	command    []string // that serves a store on its standard input and output
	store      string   // which one it is told to serve; "": its own choice
}

// openSSHNG opens the store of another machine, whose daemon is started by ssh. The
// other side may be a stock Nix.
// Source: the Nix manual, "Experimental SSH Store"; which options ssh gets, and
// that localhost needs no ssh: src/libstore/ssh.cc.
func openSSHNG(ctx context.Context, c *config, ref store.Reference) (store.Store, error) {
	p := newParams(ref)
	o := worker.ClientOptions{
		Dir:              c.storeDir(p),
		URI:              ref.String(),
		Options:          c.daemonOptions(),
		MaxConnections:   p.number("max-connections", 1),
		MaxConnectionAge: time.Duration(p.number("max-connection-age", 0)) * time.Second,
	}
	target := c.sshTarget(p, ref, "nix-daemon", "--stdio")
	if err := p.end(); err != nil {
		return nil, err
	}
	return dialSSH(target, c.tell, func(dial worker.Dialer) (store.Store, error) { return worker.NewClient(ctx, dial, o) })
}

// openSSH opens the store of another machine by `nix-store --serve`, the older
// protocol.
// Source: the Nix manual, "SSH Store".
func openSSH(ctx context.Context, c *config, ref store.Reference) (store.Store, error) {
	p := newParams(ref)
	o := worker.LegacyClientOptions{
		Dir:            c.storeDir(p),
		URI:            ref.String(),
		MaxConnections: p.number("max-connections", 1),
		Build:          c.legacyOptions(),
	}
	target := c.sshTarget(p, ref, "nix-store", "--serve", "--write")
	if err := p.end(); err != nil {
		return nil, err
	}
	return dialSSH(target, c.tell, func(dial worker.Dialer) (store.Store, error) { return worker.NewLegacyClient(ctx, dial, o) })
}

// legacyOptions are the settings that builds on another machine have by the older
// protocol.
func (c *config) legacyOptions() worker.LegacyOptions {
	e := &c.local.Build.Execute
	return worker.LegacyOptions{
		MaxSilentTime: uint64(e.MaxSilentTime / time.Second), Timeout: uint64(e.Timeout / time.Second),
		MaxLogSize: e.MaxBuildLogSize, KeepFailed: e.KeepFailed,
	}
}

// sshTarget takes the parameters that all stores have that are reached by ssh. By
// default program is what serves there; it gets args.
func (c *config) sshTarget(p *params, ref store.Reference, program string, args ...string) *sshTarget {
	p.ignore(generalParams...)
	target, err := parseSSHAuthority(ref.Authority)
	if err != nil {
		p.failf("store '%s': %v", ref, err)
	}
	target.options = c.sshOptions
	target.key = p.path("ssh-key", "")
	target.compress = p.flag("compress", false)
	if text := p.text("base64-ssh-public-host-key", ""); text != "" {
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil || strings.ContainsAny(string(key), "\n\x00") {
			p.fail("base64-ssh-public-host-key", "is not the base64 of a key")
		}
		target.hostKey = string(key)
	}
	target.command = append(strings.Fields(p.text("remote-program", program)), args...)
	target.store = p.text("remote-store", "")
	return target
}

// sshStore is a store that has a directory of its own.
type sshStore struct {
	store.Store
	temp string
}

// Unwrap gives the abilities of the store.
func (s *sshStore) Unwrap() store.Store { return s.Store }

// Close ends the connections.
func (s *sshStore) Close() error { return errors.Join(s.Store.Close(), os.RemoveAll(s.temp)) }

func dialSSH(t *sshTarget, tell func(line string), open func(worker.Dialer) (store.Store, error)) (store.Store, error) {
	temp, knownHosts := "", ""
	if t.hostKey != "" {
		var err error
		if temp, err = os.MkdirTemp("", "strata-ssh-"); err != nil {
			return nil, err
		}
		knownHosts = filepath.Join(temp, "host-key")
		if err := os.WriteFile(knownHosts, []byte(t.host+" "+t.hostKey+"\n"), 0o600); err != nil {
			return nil, errors.Join(err, os.RemoveAll(temp))
		}
	}
	argv := t.argv(knownHosts)
	st, err := open(worker.DialCommand(func() (*exec.Cmd, error) {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stderr = &lineWriter{tell: tell}
		return cmd, nil
	}))
	switch {
	case temp == "":
		return st, err
	case err != nil:
		return nil, errors.Join(err, os.RemoveAll(temp))
	}
	return &sshStore{st, temp}, nil
}

// argv is the command to run.
func (t *sshTarget) argv(knownHosts string) []string {
	if t.host == "localhost" && t.user == "" && t.port == 0 {
		if t.store != "" {
			return append(slices.Clone(t.command), "--store", t.store)
		}
		return t.command
	}
	host := t.host
	if t.user != "" {
		host = t.user + "@" + host
	}
	argv := append([]string{"ssh", host, "-x"}, t.options...)
	if t.key != "" {
		argv = append(argv, "-i", t.key)
	}
	if knownHosts != "" {
		argv = append(argv, "-oUserKnownHostsFile="+knownHosts)
	}
	if t.compress {
		argv = append(argv, "-C")
	}
	if t.port != 0 {
		argv = append(argv, "-p"+strconv.Itoa(t.port))
	}
	argv = append(append(argv, "--"), t.command...)
	if t.store != "" { // the other side's shell sees what follows
		argv = append(argv, "--store", shellWord(t.store))
	}
	return argv
}

// parseSSHAuthority reads "[user@]host[:port]". Nothing of it may be taken for an
// option of ssh.
func parseSSHAuthority(text string) (*sshTarget, error) {
	t := &sshTarget{host: strings.TrimSuffix(text, "/")}
	if user, host, ok := cutLast(t.host, "@"); ok {
		if user == "" || strings.HasPrefix(user, "-") {
			return t, fmt.Errorf("user name '%s' is empty or begins with '-'", user)
		}
		t.user, t.host = user, host
	}
	if host, port, err := net.SplitHostPort(t.host); err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return t, fmt.Errorf("'%s' is not a port", port)
		}
		t.host, t.port = host, int(n)
	}
	t.host = strings.TrimSuffix(strings.TrimPrefix(t.host, "["), "]")
	if t.host == "" || strings.HasPrefix(t.host, "-") {
		return t, fmt.Errorf("host name '%s' is empty or begins with '-'", t.host)
	}
	if i := strings.IndexFunc(t.user+t.host, func(r rune) bool { return r <= ' ' || r == '/' || r == 0x7f }); i >= 0 {
		return t, fmt.Errorf("'%s' is not a host", text)
	}
	return t, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// lineWriter passes on what a command says, line by line.
type lineWriter struct {
	tell func(line string)
	rest []byte
}

// maxSaid is the longest line that a command may say at once, in bytes.
const maxSaid = 4 << 10

// Write never fails.
func (l *lineWriter) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		i := slices.Index(l.rest, '\n')
		if i < 0 && len(l.rest) < maxSaid {
			return len(p), nil
		}
		if i < 0 {
			i = len(l.rest) - 1
		}
		l.tell(strings.TrimRight(string(l.rest[:i+1]), "\r\n"))
		l.rest = l.rest[i+1:]
	}
}

// splitShell divides text into words as a shell does: blanks separate, quotes and
// backslashes keep together.
func splitShell(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord, quote := false, byte(0)
	for i := 0; i < len(text); i++ {
		ch := text[i]
		switch {
		case quote == '\'' && ch != '\'', quote == '"' && ch != '"' && ch != '\\':
			word.WriteByte(ch)
		case quote != 0 && ch == quote:
			quote = 0
		case ch == '\\' && i+1 < len(text):
			i++
			if quote == '"' && !strings.ContainsRune("\\\"$`", rune(text[i])) {
				word.WriteByte('\\')
			}
			word.WriteByte(text[i])
			inWord = true
		case ch == '\\':
			return nil, errors.New("it ends with a backslash")
		case ch == '\'' || ch == '"':
			quote, inWord = ch, true
		case ch == ' ' || ch == '\t' || ch == '\n':
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			word.WriteByte(ch)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}
