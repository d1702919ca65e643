package compress

import "encoding/binary"

// reset forgets all that was learnt.
func (d *lzmaDecoder) reset() {
	for _, p := range [][]probability{
		d.isMatch[:], d.isLong[:], d.isRep[:], d.notRep0[:], d.notRep1[:], d.notRep2[:], d.special[:], d.aligned[:],
	} {
		even(p)
	}
	for i := range d.slots {
		even(d.slots[i][:])
	}
	for i := range d.literals {
		even(d.literals[i][:])
	}
	d.match.reset()
	d.rep.reset()
	d.state, d.reps = 0, [4]uint32{}
}

func (l *lengthDecoder) reset() {
	l.beyondLow, l.beyondMid = evenly, evenly
	for i := range l.low {
		even(l.low[i][:])
		even(l.mid[i][:])
	}
	even(l.high[:])
}

func even(p []probability) {
	for i := range p {
		p[i] = evenly
	}
}

// setProperties takes lc, lp and pb in one byte, and resets.
func (d *lzmaDecoder) setProperties(b byte) bool {
	p := uint32(b)
	lc, lp, pb := p%9, p/9%5, p/45
	if pb > 4 || lc+lp > 4 {
		return false
	}
	d.literalContext, d.literalMask, d.positionMask = lc, 1<<lp-1, 1<<pb-1
	d.reset()
	return true
}

// rangeHeader is how many bytes of a chunk start its range coder.
const rangeHeader = 5

// decode decodes a chunk of size bytes, which is in d.in, to the end of window
// from pos on. What is before belongs to the dictionary from start on, which can
// be negative when the beginning is gone. It tells whether the chunk is valid.
func (d *lzmaDecoder) decode(window []byte, start, pos, size int) bool {
	in := &d.in
	if size < rangeHeader || in[0] != 0 {
		return false
	}
	rng, code, at := ^uint32(0), binary.BigEndian.Uint32(in[1:]), rangeHeader
	state, rep0, rep1, rep2, rep3 := d.state, d.reps[0], d.reps[1], d.reps[2], d.reps[3]
	first := max(start, 0)
	var yes bool
	var n uint32
	for pos < len(window) {
		if at > size {
			return false
		}
		place := uint32(pos - start)
		position := place & d.positionMask
		context := (state<<4 | position) & 255
		if yes, at, rng, code = bit(&d.isMatch[context], in, at, rng, code); !yes {
			before := uint32(0)
			if pos > start {
				before = uint32(window[pos-1])
			}
			p := &d.literals[(place&d.literalMask<<d.literalContext+before>>(8-d.literalContext))&15]
			if state < afterMatch {
				n, at, rng, code = tree(p[:], 0x100, in, at, rng, code)
			} else {
				from := pos - int(rep0) - 1
				if from < first {
					return false
				}
				n, at, rng, code = literalAfterMatch(p, uint32(window[from]), in, at, rng, code)
			}
			state = afterLiteral[state&15]
			window[pos] = byte(n)
			pos++
			continue
		}
		if yes, at, rng, code = bit(&d.isRep[state&15], in, at, rng, code); !yes {
			rep3, rep2, rep1 = rep2, rep1, rep0
			n, at, rng, code = d.match.decode(position, in, at, rng, code)
			rep0, at, rng, code = d.distance(n, in, at, rng, code)
			state = next(state, 7)
		} else {
			short := false
			if yes, at, rng, code = bit(&d.notRep0[state&15], in, at, rng, code); !yes {
				yes, at, rng, code = bit(&d.isLong[context], in, at, rng, code)
				short = !yes
			} else if yes, at, rng, code = bit(&d.notRep1[state&15], in, at, rng, code); !yes {
				rep0, rep1 = rep1, rep0
			} else if yes, at, rng, code = bit(&d.notRep2[state&15], in, at, rng, code); !yes {
				rep0, rep1, rep2 = rep2, rep0, rep1
			} else {
				rep0, rep1, rep2, rep3 = rep3, rep0, rep1, rep2
			}
			if short {
				n, state = 1, next(state, 9)
			} else {
				n, at, rng, code = d.rep.decode(position, in, at, rng, code)
				state = next(state, 8)
			}
		}
		if rep0 >= d.dictionary {
			return false
		}
		from, end := pos-int(rep0)-1, pos+int(n)
		if from < first || end > len(window) {
			return false
		}
		repeat(window[:end], from, pos)
		pos = end
	}
	d.state, d.reps = state, [4]uint32{rep0, rep1, rep2, rep3}
	if rng < rangeTop {
		code, at = code<<8|uint32(in[at&inputMask]), at+1
	}
	return at == size && code == 0
}

// repeat fills w from pos on with what begins at from, which may reach into what
// is being filled.
func repeat(w []byte, from, pos int) {
	if pos-from >= len(w)-pos {
		copy(w[pos:], w[from:])
		return
	}
	for ; pos < len(w); pos++ {
		w[pos] = w[from]
		from++
	}
}

// afterLiteral is the state after a literal, by the state before it.
var afterLiteral = [16]uint32{4: 1, 5: 2, 6: 3, 7: 4, 8: 5, 9: 6, 10: 4, 11: 5}

// next is the state after a match, a repeated match or a short one: one of two
// for each, the first of which is for when a literal was before it.
func next(state, kind uint32) uint32 {
	switch {
	case state < afterMatch:
		return kind
	case kind == 7:
		return 10
	}
	return 11
}
