package trust

import (
	"maps"
	"slices"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// maxPerKey bounds how many signatures in the name of one key are checked: one
// is what honest objects have, and each costs some ten microseconds.
const maxPerKey = 4

// Keys are the public keys that are believed, by name. A name has one key: where
// two have the same, the first counts, as in Nix. The zero value believes
// nobody.
type Keys map[string]PublicKey

// ParseKeys reads the value of trusted-public-keys.
func ParseKeys(texts []string) (Keys, error) {
	keys := Keys{}
	for _, t := range texts {
		k, err := ParsePublicKey(t)
		if err != nil {
			return nil, err
		}
		keys.add(k)
	}
	return keys, nil
}

func (k Keys) add(p PublicKey) {
	if _, ok := k[p.name]; !ok {
		k[p.name] = p
	}
}

// With is a set that has more keys too.
func (k Keys) With(more Keys) Keys {
	out := maps.Clone(k)
	if out == nil {
		out = Keys{}
	}
	for _, p := range more {
		out.add(p)
	}
	return out
}

// WithSecret is a set that also believes what was signed here, with the keys of
// secret-key-files.
func (k Keys) WithSecret(secret ...SecretKey) Keys {
	more := Keys{}
	for _, s := range secret {
		more.add(s.Public())
	}
	return k.With(more)
}

// Strings are the keys in the form that ParseKeys takes, sorted by name.
func (k Keys) Strings() []string {
	out := make([]string, 0, len(k))
	for _, name := range slices.Sorted(maps.Keys(k)) {
		out = append(out, k[name].String())
	}
	return out
}

// Verify tells whether one of the keys made the signature of a fingerprint.
func (k Keys) Verify(fingerprint string, sig store.Signature) bool {
	key, ok := k[sig.KeyName()]
	return ok && key.Verify(fingerprint, sig)
}

// CountValid tells how many of the keys have signed a path info. It does bounded
// work for each key, whatever number of signatures there are.
func (k Keys) CountValid(info *store.PathInfo, dir storepath.Dir) int {
	return k.count(info.Signatures, func() (string, error) { return info.Fingerprint(dir) })
}

// CountValidRealisation tells how many of the keys have signed a realisation.
func (k Keys) CountValidRealisation(r *store.Realisation) int {
	return k.count(r.Signatures, r.Fingerprint)
}

func (k Keys) count(sigs []store.Signature, fingerprint func() (string, error)) int {
	if len(k) == 0 || len(sigs) == 0 {
		return 0
	}
	var text string
	tried := map[string]int{}
	valid := 0
	for _, s := range sigs {
		name := s.KeyName()
		key, ok := k[name]
		if !ok || tried[name] >= maxPerKey {
			continue
		}
		if text == "" {
			var err error
			if text, err = fingerprint(); err != nil {
				return 0
			}
		}
		tried[name]++
		if key.Verify(text, s) {
			valid++
			tried[name] = maxPerKey // one counts
		}
	}
	return valid
}

// Sign adds the signatures of keys to a path info. Its hash and size must be
// known.
func Sign(info *store.PathInfo, dir storepath.Dir, keys ...SecretKey) error {
	text, err := info.Fingerprint(dir)
	if err != nil {
		return err
	}
	info.Signatures = withSignatures(info.Signatures, text, keys)
	return nil
}

// SignRealisation adds the signatures of keys to a realisation.
func SignRealisation(r *store.Realisation, keys ...SecretKey) error {
	text, err := r.Fingerprint()
	if err != nil {
		return err
	}
	r.Signatures = withSignatures(r.Signatures, text, keys)
	return nil
}

// withSignatures leaves sigs as they are, somebody may share them.
func withSignatures(sigs []store.Signature, text string, keys []SecretKey) []store.Signature {
	sigs = slices.Clone(sigs)
	for _, k := range keys {
		sigs = append(sigs, k.Sign(text))
	}
	return store.SortSignatures(sigs)
}
