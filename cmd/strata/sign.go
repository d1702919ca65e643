package main

import (
	"context"
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

type signOptions struct {
	selection
	keyFiles []string
	json     bool
}

func newSignCommand(g *globals) *cobra.Command {
	var o signOptions
	cmd := &cobra.Command{
		Use:   "sign PATH...",
		Short: "Add signatures to paths of a store",
		Long: `Add signatures to valid paths: by the secret keys in the files named with
--key-file, or else by those of secret-key-files in nix.conf. What is signed is
what the store knows of a path, its contents are not read. The file indexes of a
binary cache are signed as well; one that none of the trusted-public-keys has
signed is first made anew of the object's NAR.`,
		Example: "  strata sign --key-file /etc/nix/cache.secret --closure /nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-hello",
		Args:    anyArgs,
		RunE:    runner(func(ctx context.Context, args []string) error { return runSign(ctx, g, o, args) }),
	}
	f := cmd.Flags()
	o.addFlags(f, "sign")
	f.StringArrayVarP(&o.keyFiles, "key-file", "k", nil, "the `FILE` with the secret key; may be repeated")
	f.BoolVar(&o.json, "json", false, "print JSON about what was signed")
	return cmd
}

func runSign(ctx context.Context, g *globals, o signOptions, args []string) error {
	c, err := g.config()
	if err != nil {
		return err
	}
	files := o.keyFiles
	if len(files) == 0 {
		files = c.secretKeyFiles
	}
	if len(files) == 0 {
		return &usageError{errors.New("there is no key to sign with; name its file with --key-file, or set secret-key-files")}
	}
	keys, err := secretKeys(files)
	if err != nil {
		return err
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
		signed, err := signAll(ctx, st, infos, c.local.TrustedKeys, keys)
		if err != nil {
			return err
		}
		activity.Logf(ctx, activity.Info, "signed %d paths, %d had these signatures already", len(signed), len(infos)-len(signed))
		if !o.json {
			return nil
		}
		return g.out.printJSON(struct {
			Signed        []string `json:"signed"`
			AlreadySigned int      `json:"alreadySigned"`
		}{dir.PrintAll(signed), len(infos) - len(signed)})
	})
}

// signAll adds the signatures that paths and their file indexes lack, and gives the paths that lacked
// some.
func signAll(ctx context.Context, st store.Store, infos []*store.PathInfo, trusted trust.Keys, keys []trust.SecretKey) ([]storepath.Path, error) {
	adder, err := store.Need[store.SignatureAdder](st, "addSignatures")
	if err != nil {
		return nil, err
	}
	indexes, _ := store.As[interface {
		SignIndex(context.Context, storepath.Path, trust.Keys, ...trust.SecretKey) (bool, error)
	}](st)
	var signed []storepath.Path
	for _, info := range infos {
		index := false
		if indexes != nil {
			if index, err = indexes.SignIndex(ctx, info.Path, trusted, keys...); err != nil {
				return signed, err
			}
		}
		fingerprint, err := info.Fingerprint(st.Dir())
		if err != nil {
			return signed, err
		}
		var sigs []store.Signature
		for _, k := range keys {
			if sig := k.Sign(fingerprint); !slices.Contains(info.Signatures, sig) {
				sigs = append(sigs, sig)
			}
		}
		if len(sigs) > 0 {
			if err := adder.AddSignatures(ctx, info.Path, sigs); err != nil {
				return signed, err
			}
		}
		if index || len(sigs) > 0 {
			signed = append(signed, info.Path)
		}
	}
	return signed, nil
}
