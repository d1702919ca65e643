package filetransfer

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/strata-nix/strata/nixconf"
)

var noTime time.Time

func config(t *testing.T, text string) *nixconf.Config {
	t.Helper()
	c, err := nixconf.Load(func(name string) (string, bool) {
		switch name {
		case "NIX_CONFIG":
			return text, true
		case "NIX_CONF_DIR", "NIX_USER_CONF_FILES", "HOME":
			return "/nonexistent", true
		}
		return "", false
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFromConfig(t *testing.T) {
	t.Setenv("NIX_SSL_CERT_FILE", "/ca")
	got, err := FromConfig(config(t, ""), "/conf")
	want := DefaultOptions()
	want.NetrcFile = "/conf/netrc"
	if err != nil || !reflect.DeepEqual(got, want) || want.CAFile != "/ca" {
		t.Errorf("nothing set: %+v, %v", got, err)
	}
	got, err = FromConfig(config(t, `
connect-timeout = 1
stalled-download-timeout = 2
download-speed = 3
http-connections = 0
http2 = false
download-attempts = 4
user-agent-suffix = me
ssl-cert-file = /certs
netrc-file = /accounts
`), "/conf")
	want = Options{
		ConnectTimeout: time.Second, StalledTimeout: 2 * time.Second, Speed: 3 << 10, NoHTTP2: true, Attempts: 4,
		UserAgentSuffix: "me", CAFile: "/certs", NetrcFile: "/accounts",
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("all set: %+v, %v", got, err)
	}
	_, err = FromConfig(config(t, "connect-timeout = -1\ndownload-attempts = -5"), "/conf")
	if err == nil || !strings.Contains(err.Error(), "connect-timeout") || !strings.Contains(err.Error(), "download-attempts") {
		t.Errorf("nonsense: %v", err)
	}
}

func TestDefaultCAFile(t *testing.T) {
	t.Setenv("NIX_SSL_CERT_FILE", "")
	t.Setenv("SSL_CERT_FILE", "")
	if file := DefaultCAFile(); file != "" {
		if _, err := os.Stat(file); err != nil || !filepath.IsAbs(file) {
			t.Errorf("%s: %v", file, err)
		}
	}
	t.Setenv("SSL_CERT_FILE", "/two")
	if file := DefaultCAFile(); file != "/two" {
		t.Error(file)
	}
	t.Setenv("NIX_SSL_CERT_FILE", "/one")
	if file := DefaultCAFile(); file != "/one" {
		t.Error(file)
	}
}
