package nixconf

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-nix/strata/internal/testenv"
)

// What stock Nix says of its settings is what the table says, and the kinds go
// with the defaults.
func TestSettingsOfStockNix(t *testing.T) {
	nix := testenv.Nix(t, "2.34")
	var stock map[string]struct {
		Aliases             []string
		ExperimentalFeature string
		DefaultValue        any
	}
	if err := json.Unmarshal([]byte(nix.Run(t, "nix", "config", "show", "--json")), &stock); err != nil {
		t.Fatal(err)
	}
	for _, s := range Settings {
		is, ok := stock[s.Name]
		if !ok {
			t.Errorf("stock Nix has no setting %s", s.Name)
			continue
		}
		delete(stock, s.Name)
		slices.Sort(is.Aliases)
		if !slices.Equal(is.Aliases, s.Aliases) || is.ExperimentalFeature != s.Feature {
			t.Errorf("%s: aliases %q, feature %q", s.Name, is.Aliases, is.ExperimentalFeature)
		}
		_, isBool := is.DefaultValue.(bool)
		_, isNumber := is.DefaultValue.(float64)
		if (s.Kind == Bool) != (isBool && s.Name != "sandbox") || (s.Kind == Int || s.Kind == Jobs) != isNumber {
			t.Errorf("%s: default %v", s.Name, is.DefaultValue)
		}
	}
	for name := range stock {
		t.Errorf("the table has no setting %s", name)
	}
}

// Values come out as in stock Nix, which shows them all.
func TestValuesOfStockNix(t *testing.T) {
	nix := testenv.Nix(t, "2.34")
	nix.WriteFile(t, "conf/more.conf", "cores = 3 # three\nextra-trusted-users = a  b\nextra-extra-platforms = x\n")
	nix.Configure(t, "build-cores = 2", "\ttrusted-users =   root @wheel", "include more.conf", "!include none.conf",
		"min-free = 3G", "access-tokens = h=1 h=2", "extra-access-tokens = h=3 i=4", "keep-outputs = yes", "builders = ssh://x  a ; ssh://y")
	nix = nix.With("NIX_CONFIG", "extra-trusted-users = env\nextra-experimental-features = ca-derivations")
	c, err := Load(func(name string) (string, bool) {
		switch name {
		case "NIX_CONF_DIR":
			return nix.Dir + "/conf", true
		case "NIX_CONFIG":
			return "extra-trusted-users = env\nextra-experimental-features = ca-derivations", true
		case "NIX_USER_CONF_FILES":
			return "", true
		}
		return "", false
	})
	if err != nil {
		t.Fatal(err)
	}
	show := func(name string) string { return nix.Run(t, "nix", "config", "show", name) }
	list := func(name string) string { return strings.Join(c.Strings(name, nil), " ") }
	cores, keep, free := get[int64](t)(c.Int("cores", 0)), get[bool](t)(c.Bool("keep-outputs", false)), get[int64](t)(c.Int("min-free", 0))
	got := map[string]any{"cores": cores, "keep-outputs": keep, "min-free": free, "trusted-users": list("trusted-users"), "builders": c.String("builders", "")}
	want := map[string]any{"cores": int64(3), "keep-outputs": true, "min-free": int64(3 << 30), "trusted-users": show("trusted-users"), "builders": show("builders")}
	if d := cmp.Diff(want, got); d != "" || show("cores") != "3" || show("keep-outputs") != "true" || show("min-free") != "3221225472" {
		t.Error(d)
	}
	tokens := c.Map("access-tokens")
	if got, want := show("access-tokens"), "h="+tokens["h"]+" i="+tokens["i"]; strings.TrimSpace(got) != want {
		t.Errorf("access-tokens: stock %q, ours %q", got, want)
	}
	features := strings.Fields(show("experimental-features"))
	for _, f := range features {
		if !c.HasFeature(f) {
			t.Errorf("experimental feature %s is off", f)
		}
	}
}
