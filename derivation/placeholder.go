package derivation

import (
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// OutputPlaceholder stands for the path of a derivation's own output in its
// arguments and environment, where that is not known yet.
func OutputPlaceholder(output string) string {
	return "/" + nixhash.Of(nixhash.SHA256, "nix-output:"+output).Digest(nixhash.Nix32)
}

// Placeholder stands for the path of an output of another derivation, which is
// known only after that was built.
type Placeholder struct{ hash nixhash.Hash }

// UnknownOutput is the placeholder of an output of drv.
func UnknownOutput(drv storepath.Path, output string) (Placeholder, error) {
	name, err := NameFromPath(drv)
	if err != nil {
		return Placeholder{}, err
	}
	return Placeholder{nixhash.Of(nixhash.SHA256, "nix-upstream-output:"+drv.HashPart()+":"+storepath.OutputName(name, output))}, nil
}

// Output is the placeholder of an output of the derivation that p stands for.
func (p Placeholder) Output(name string) Placeholder {
	short := nixhash.EncodeNix32(nixhash.Compress(p.hash.Bytes(), 20))
	return Placeholder{nixhash.Of(nixhash.SHA256, "nix-computed-output:"+short+":"+name)}
}

// String is what stands in the text.
func (p Placeholder) String() string { return "/" + p.hash.Digest(nixhash.Nix32) }
