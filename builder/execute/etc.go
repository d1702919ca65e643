package execute

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/strata-nix/strata/builder/sandbox"
)

// Ids of the builder as it sees itself.
const (
	insideUID = 1000
	insideGID = 100
)

// makeEtc puts into /etc what programs cannot do without, unless settings show
// another one.
func (c *chroot) makeEtc(b *build, m mounts) error {
	if _, taken := m["/etc"]; taken {
		return nil
	}
	uid, gid := insideUID, insideGID
	if b.attrs.UIDRange() {
		uid, gid = 0, 0
	}
	home := b.seenBuildDir()
	files := map[string]string{
		"passwd": fmt.Sprintf("root:x:0:0:Nix build user:%[3]s:/noshell\n"+
			"nixbld:x:%[1]d:%[2]d:Nix build user:%[3]s:/noshell\n"+
			"nobody:x:65534:65534:Nobody:/:/noshell\n", uid, gid, home),
		"group": fmt.Sprintf("root:x:0:\nnixbld:!:%d:\nnogroup:x:65534:\n", gid),
	}
	if b.kind.IsSandboxed() {
		files["hosts"] = "127.0.0.1 localhost\n::1 localhost\n"
	} else {
		files["nsswitch.conf"] = "hosts: files dns\nservices: files\n"
		b.showNetwork(m)
	}
	if b.attrs.UIDRange() {
		return c.ownEtc(b, m, files)
	}
	c.closed = append(c.closed, sandbox.Mount{Kind: sandbox.Dir, Target: "/etc", Mode: 0o555})
	for name, text := range files {
		target := "/etc/" + name
		if _, taken := m[target]; !taken {
			m.put(sandbox.Mount{Kind: sandbox.File, Target: target, Data: []byte(text), Mode: 0o644})
		}
	}
	return nil
}

// ownEtc is for a builder that is root of its sandbox, and may change /etc.
func (c *chroot) ownEtc(b *build, m mounts, files map[string]string) error {
	etc := filepath.Join(c.root, "etc")
	if err := makeDir(etc, 0o755, b.own); err != nil {
		return fmt.Errorf("creating /etc of the sandbox: %w", err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("creating /etc of the sandbox: %w", err)
		}
	}
	m.put(sandbox.Mount{Kind: sandbox.Own, Source: etc, Target: "/etc"})
	return nil
}

// showNetwork shows what builders need that use the network: how names are
// resolved, and who is believed. What of it is a symlink is shown as what it leads to.
func (b *build) showNetwork(m mounts) {
	show := func(target, source string) {
		if _, taken := m[target]; taken {
			return
		}
		if real, err := filepath.EvalSymlinks(source); err == nil {
			m.put(sandbox.Mount{Kind: sandbox.ReadOnly, Source: real, Target: target})
		}
	}
	for _, name := range []string{"/etc/resolv.conf", "/etc/services", "/etc/hosts"} {
		show(name, name)
	}
	if b.o.SSLCertFile != "" {
		show("/etc/ssl/certs/ca-certificates.crt", b.o.SSLCertFile)
	}
}
