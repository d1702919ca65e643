package compress

// LZMA as it occurs in LZMA2: a range coder, the adaptive probabilities of its
// bits, and the symbols that they spell. Source: the LZMA specification by Igor
// Pavlov (lzma-specification.txt of the LZMA SDK).
//
// This is where the time goes when something is fetched from most binary
// caches. The range coder's state is passed along and returned, so that it stays
// in registers, and bits that nobody can predict are decoded without a branch.

// A probability is that of a bit being 0, in units of 1/2048.
type probability = uint16

const (
	evenly = 1 << 10 // the probability to begin with
	// learning is by how much, as a shift, a probability moves towards what came.
	learning = 5
	// towardsZero is added to a probability before the shift when the bit was 0,
	// so that one subtraction does for both cases.
	towardsZero = 1<<learning - 1 - 2048
	// rangeTop is below which the range is made wider by a byte of input.
	rangeTop = 1 << 24
)

// lzmaInput holds one chunk. A symbol can take a few bytes more than there are
// before that is noticed; the size and the mask let the compiler leave out checks.
type lzmaInput = [1 << 17]byte

const inputMask = len(lzmaInput{}) - 1

// A lengthDecoder decodes lengths of matches.
type lengthDecoder struct {
	beyondLow, beyondMid probability
	low, mid             [16][8]probability // by position
	high                 [256]probability
}

// An lzmaDecoder is what one chunk leaves to the next.
type lzmaDecoder struct {
	isMatch, isLong           [256]probability // by state and position
	isRep, notRep0            [16]probability  // by state
	notRep1, notRep2          [16]probability
	slots                     [4][64]probability
	special                   [128]probability
	aligned                   [16]probability
	match, rep                lengthDecoder
	literals                  [16][0x300]probability
	state                     uint32    // what the last symbols were
	reps                      [4]uint32 // the last distances, less one
	literalContext            uint32    // bits of the byte before, lc
	literalMask, positionMask uint32    // from lp and pb

	dictionary uint32 // how far back a match may begin, in bytes; at most MaxWindow
	in         lzmaInput
}

// States below this one are after a literal.
const afterMatch = 7

// bit decodes a bit that is about to be branched on.
func bit(p *probability, in *lzmaInput, at int, rng, code uint32) (bool, int, uint32, uint32) {
	if rng < rangeTop {
		rng, code, at = rng<<8, code<<8|uint32(in[at&inputMask]), at+1
	}
	v := uint32(*p)
	bound := rng >> 11 * v
	if code < bound {
		*p = probability(v + (2048-v)>>learning)
		return false, at, bound, code
	}
	*p = probability(v - v>>learning)
	return true, at, rng - bound, code - bound
}

// tree decodes a number below limit, a power of two, from its highest bit on.
func tree(p []probability, limit uint32, in *lzmaInput, at int, rng, code uint32) (uint32, int, uint32, uint32) {
	n := uint32(1)
	for n < limit {
		if rng < rangeTop {
			rng, code, at = rng<<8, code<<8|uint32(in[at&inputMask]), at+1
		}
		v := uint32(p[n])
		bound := rng >> 11 * v
		zero := uint32(int64(uint64(code)-uint64(bound)) >> 63) // all ones if the bit is 0
		p[n] = probability(int32(v) - (int32(v)+int32(zero)&towardsZero)>>learning)
		rng = rng - bound + zero&(2*bound-rng)
		code = code - bound + zero&bound
		n = n<<1 + 1 + zero
	}
	return n - limit, at, rng, code
}

// literalAfterMatch decodes a byte, knowing which one the last match would have
// gone on with.
func literalAfterMatch(p *[0x300]probability, match uint32, in *lzmaInput, at int, rng, code uint32) (uint32, int, uint32, uint32) {
	n, same := uint32(1), uint32(0x100)
	for n < 0x100 {
		if rng < rangeTop {
			rng, code, at = rng<<8, code<<8|uint32(in[at&inputMask]), at+1
		}
		match <<= 1
		expected := match & same
		i := same + expected + n
		v := uint32(p[i])
		bound := rng >> 11 * v
		zero := uint32(int64(uint64(code)-uint64(bound)) >> 63)
		p[i] = probability(int32(v) - (int32(v)+int32(zero)&towardsZero)>>learning)
		rng = rng - bound + zero&(2*bound-rng)
		code = code - bound + zero&bound
		n = n<<1 + 1 + zero
		same &= expected ^ zero
	}
	return n - 0x100, at, rng, code
}

// reversed decodes a number of some bits from its lowest bit on.
func reversed(p []probability, bits uint32, in *lzmaInput, at int, rng, code uint32) (uint32, int, uint32, uint32) {
	path, n := uint32(1), uint32(0)
	for i := range bits {
		if rng < rangeTop {
			rng, code, at = rng<<8, code<<8|uint32(in[at&inputMask]), at+1
		}
		v := uint32(p[path])
		bound := rng >> 11 * v
		zero := uint32(int64(uint64(code)-uint64(bound)) >> 63)
		p[path] = probability(int32(v) - (int32(v)+int32(zero)&towardsZero)>>learning)
		rng = rng - bound + zero&(2*bound-rng)
		code = code - bound + zero&bound
		path = path<<1 + 1 + zero
		n |= (1 + zero) << (i & 31)
	}
	return n, at, rng, code
}

// evens decodes bits of which nothing is known.
func evens(bits uint32, in *lzmaInput, at int, rng, code uint32) (uint32, int, uint32, uint32) {
	n := uint32(0)
	for range bits {
		if rng < rangeTop {
			rng, code, at = rng<<8, code<<8|uint32(in[at&inputMask]), at+1
		}
		rng >>= 1
		code -= rng
		zero := uint32(int32(code) >> 31)
		code += rng & zero
		n = n<<1 + 1 + zero
	}
	return n, at, rng, code
}

func (l *lengthDecoder) decode(position uint32, in *lzmaInput, at int, rng, code uint32) (n uint32, _ int, _, _ uint32) {
	var more bool
	if more, at, rng, code = bit(&l.beyondLow, in, at, rng, code); !more {
		n, at, rng, code = tree(l.low[position&15][:], 8, in, at, rng, code)
		return n + 2, at, rng, code
	}
	if more, at, rng, code = bit(&l.beyondMid, in, at, rng, code); !more {
		n, at, rng, code = tree(l.mid[position&15][:], 8, in, at, rng, code)
		return n + 10, at, rng, code
	}
	n, at, rng, code = tree(l.high[:], 256, in, at, rng, code)
	return n + 18, at, rng, code
}

// distance decodes how far back a match begins, less one. Its highest bits are a
// slot, and its lowest ones have probabilities too.
func (d *lzmaDecoder) distance(length uint32, in *lzmaInput, at int, rng, code uint32) (uint32, int, uint32, uint32) {
	slot, at, rng, code := tree(d.slots[min(length-2, 3)&3][:], 64, in, at, rng, code)
	if slot < 4 {
		return slot, at, rng, code
	}
	bits := slot>>1 - 1
	high := (2 | slot&1) << bits
	var low uint32
	if slot < 14 {
		low, at, rng, code = reversed(d.special[high-slot:], bits, in, at, rng, code)
		return high + low, at, rng, code
	}
	low, at, rng, code = evens(bits-4, in, at, rng, code)
	high += low << 4
	low, at, rng, code = reversed(d.aligned[:], 4, in, at, rng, code)
	return high + low, at, rng, code
}
