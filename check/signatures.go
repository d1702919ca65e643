package check

import (
	"context"
	"slices"

	"github.com/strata-nix/strata/store"
)

// findBadSignature compares the signatures in the names of trusted keys. What others have
// signed nobody here can check.
func findBadSignature(x *examination, o *object, say func(*Finding)) {
	if o.info == nil || len(o.info.Signatures) == 0 || o.info.NarSize == 0 {
		return
	}
	text, err := o.info.Fingerprint(x.Dir)
	if err != nil {
		return
	}
	for _, sig := range o.info.Signatures {
		key, trusted := x.TrustedKeys[sig.KeyName()]
		if trusted && !key.Verify(text, sig) {
			say(&Finding{Detail: "that of " + visible(sig.KeyName()), data: sig})
		}
	}
}

// mendSignature deletes a signature that does not hold.
func mendSignature(ctx context.Context, r *repairs, f *Finding) error {
	db, err := r.own(f)
	if err != nil {
		return err
	}
	sig, ok := f.data.(store.Signature)
	if !ok {
		return errNothingKnown
	}
	info, err := r.Layers[0].info(ctx, f.path)
	if err != nil || info == nil {
		return err
	}
	fixed := info.Clone()
	fixed.Signatures = slices.DeleteFunc(slices.Clone(fixed.Signatures), func(s store.Signature) bool { return s == sig })
	return db.Update(ctx, []*store.PathInfo{fixed})
}
