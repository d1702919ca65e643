package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

type verifySigsOptions struct {
	selection
	keys   []string
	needed int
	json   bool
}

func newVerifySigsCommand(g *globals) *cobra.Command {
	var o verifySigsOptions
	cmd := &cobra.Command{
		Use:   "verify-sigs PATH...",
		Short: "Print which keys vouch for paths",
		Long: `Print, for each path, the trusted keys that have signed it: those of
trusted-public-keys in nix.conf, or those given with --key. A path that follows
from its contents needs no signature, nor does one that was built here, unless
--sigs-needed asks for some. Contents are not read: see 'nix-store --verify'.

The exit status is 4 if there is a path for which nobody vouches.`,
		Example: `  strata verify-sigs --closure /run/current-system
  strata verify-sigs --store https://cache.example.org --key "$(cat cache.public)" --all`,
		Args: anyArgs,
		RunE: runner(func(ctx context.Context, args []string) error { return runVerifySigs(ctx, g, o, args) }),
	}
	f := cmd.Flags()
	o.addFlags(f, "verify")
	f.StringArrayVarP(&o.keys, "key", "k", nil, "believe this public `KEY`, and no others but those named so; may be repeated")
	f.IntVarP(&o.needed, "sigs-needed", "n", 0, "want at least `N` signatures by different trusted keys")
	f.BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func runVerifySigs(ctx context.Context, g *globals, o verifySigsOptions, args []string) error {
	c, err := g.config()
	if err != nil {
		return err
	}
	keys := c.local.TrustedKeys
	if len(o.keys) > 0 {
		if keys, err = trust.ParseKeys(o.keys); err != nil {
			return &usageError{err}
		}
	}
	if o.needed < 0 || o.needed > len(keys) {
		return &usageError{fmt.Errorf("--sigs-needed %d makes no sense with %d trusted keys", o.needed, len(keys))}
	}
	dir, err := g.storeDir(g.storeURI)
	if err != nil {
		return err
	}
	if err := o.parse(ctx, g, dir, args); err != nil {
		return err
	}
	return g.with(ctx, func(st store.Store) error {
		infos, err := o.infos(ctx, st)
		if err != nil {
			return err
		}
		found := make(map[string]*vouched, len(infos))
		bad := 0
		for _, info := range infos {
			v := newVouched(info, dir, keys, o.needed)
			if !v.OK {
				bad++
			}
			if found[dir.Print(info.Path)] = v; !o.json {
				if err := g.out.println(dir.Print(info.Path) + "\t" + v.String()); err != nil {
					return err
				}
			}
		}
		if o.json {
			if err := g.out.printJSON(found); err != nil {
				return err
			}
		}
		if bad > 0 {
			return fmt.Errorf("%w: %d of %d paths", errNotVouched, bad, len(infos))
		}
		return nil
	})
}

// errNotVouched is why verify-sigs fails.
var errNotVouched = fmt.Errorf("%w for all paths", store.ErrNoSignature)

// vouched is who vouches for a path.
type vouched struct {
	OK               bool     `json:"ok"`
	Keys             []string `json:"keys"`    // trusted ones that have signed it
	Unknown          []string `json:"unknown"` // others in whose name it is signed
	Wrong            []string `json:"wrong"`   // trusted ones in whose name there is a signature that does not hold
	ContentAddressed bool     `json:"contentAddressed"`
	Ultimate         bool     `json:"ultimate"` // built here
}

func newVouched(info *store.PathInfo, dir storepath.Dir, keys trust.Keys, needed int) *vouched {
	v := &vouched{Keys: []string{}, Unknown: []string{}, Wrong: []string{},
		ContentAddressed: info.IsContentAddressed(dir), Ultimate: info.Ultimate}
	sigs := map[string][]store.Signature{}
	var names []string
	for _, s := range info.Signatures {
		if sigs[s.KeyName()] == nil {
			names = append(names, s.KeyName())
		}
		sigs[s.KeyName()] = append(sigs[s.KeyName()], s)
	}
	for _, name := range names {
		one := info.Clone()
		one.Signatures = sigs[name]
		switch _, known := keys[name]; {
		case !known:
			v.Unknown = append(v.Unknown, name)
		case keys.CountValid(one, dir) > 0:
			v.Keys = append(v.Keys, name)
		default:
			v.Wrong = append(v.Wrong, name)
		}
	}
	v.OK = len(v.Keys) >= max(needed, 1) || needed == 0 && (v.ContentAddressed || v.Ultimate)
	return v
}

// String is for people, on one line.
func (v *vouched) String() string {
	var parts []string
	for _, p := range []struct {
		is   bool
		text string
	}{
		{len(v.Keys) > 0, strings.Join(v.Keys, " ")},
		{v.ContentAddressed, "(content-addressed)"},
		{v.Ultimate, "(built here)"},
		{len(v.Wrong) > 0, "(wrong: " + strings.Join(v.Wrong, " ") + ")"},
		{len(v.Unknown) > 0, "(unknown: " + strings.Join(v.Unknown, " ") + ")"},
	} {
		if p.is {
			parts = append(parts, p.text)
		}
	}
	if !v.OK {
		parts = append([]string{"NOT VOUCHED FOR"}, parts...)
	}
	return strings.Join(parts, " ")
}
