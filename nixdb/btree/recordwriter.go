package btree

import "encoding/binary"

// RecordWriter makes records, column by column. The zero value is one without columns.
type RecordWriter struct {
	head, body, whole []byte
}

// Reset begins another record.
func (w *RecordWriter) Reset() { w.head, w.body = w.head[:0], w.body[:0] }

// Null adds a column without a value. So is the row number of a table stored that has a column for it.
func (w *RecordWriter) Null() { w.head = append(w.head, 0) }

// Int adds an integer, in as few bytes as it needs.
func (w *RecordWriter) Int(v int64) {
	switch {
	case v == 0 || v == 1:
		w.head = append(w.head, byte(8+v))
		return
	case v == int64(int8(v)):
		w.head = append(w.head, 1)
		w.body = append(w.body, byte(v))
		return
	case v == int64(int16(v)):
		w.head = append(w.head, 2)
		w.body = binary.BigEndian.AppendUint16(w.body, uint16(v))
		return
	case v == int64(int32(v)):
		if v == int64(int32(v)<<8>>8) { //nolint:gosec // whether three bytes are enough
			w.head, w.body = append(w.head, 3), append(w.body, byte(v>>16), byte(v>>8), byte(v))
			return
		}
		w.head = append(w.head, 4)
		w.body = binary.BigEndian.AppendUint32(w.body, uint32(v))
		return
	case v == v<<16>>16:
		w.head, w.body = append(w.head, 5), binary.BigEndian.AppendUint16(w.body, uint16(v>>32))
		w.body = binary.BigEndian.AppendUint32(w.body, uint32(v))
		return
	}
	w.head, w.body = append(w.head, 6), binary.BigEndian.AppendUint64(w.body, uint64(v))
}

// Text adds a text, whose parts follow each other.
func (w *RecordWriter) Text(parts ...string) {
	n := 0
	for _, p := range parts {
		w.body = append(w.body, p...)
		n += len(p)
	}
	w.head = appendVarint(w.head, uint64(2*n+13))
}

// Record is what was made, until the next Reset.
func (w *RecordWriter) Record() Record {
	n := len(w.head) + 1
	if n > 0x7f {
		n++ // no record here has so many columns that it takes three bytes
	}
	w.whole = appendVarint(w.whole[:0], uint64(n))
	w.whole = append(append(w.whole, w.head...), w.body...)
	return w.whole
}

// appendVarint appends a number of one to nine bytes.
func appendVarint(b []byte, v uint64) []byte {
	if v < 0x80 {
		return append(b, byte(v))
	}
	if v>>56 != 0 {
		b = append(b, byte(v>>57)|0x80, byte(v>>50)|0x80, byte(v>>43)|0x80, byte(v>>36)|0x80,
			byte(v>>29)|0x80, byte(v>>22)|0x80, byte(v>>15)|0x80, byte(v>>8)|0x80)
		return append(b, byte(v))
	}
	var tmp [8]byte
	i := len(tmp)
	for more := byte(0); v > 0; more = 0x80 {
		i--
		tmp[i] = byte(v&0x7f) | more
		v >>= 7
	}
	return append(b, tmp[i:]...)
}
