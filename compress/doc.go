// Package compress reads and writes the compressed streams of binary caches,
// build logs and tarballs: xz, zstd, gzip, bzip2 and brotli.
//
//	r, err := compress.NewReader(ctx, compress.XZ, body)
//	…
//	defer r.Close()
//	… io.Copy(dst, r) …
//
// # What will bite
//
//   - A reader may read ahead, up to the end of what it was given, and checks
//     that nothing but compressed data is there: a stream that ends too early
//     wraps io.ErrUnexpectedEOF, bytes after its end are an error too. Several
//     streams one after the other are one, for all methods but brotli, whose
//     format has no room for that.
//   - Some codecs run beside their caller, in a goroutine or in a child process.
//     Close ends them and waits until they have let go of the underlying reader.
//     If reads from that one can block for long, close or cancel it first.
//   - How much comes out is not limited: a few kilobytes can become gigabytes.
//     What they are written to must have a limit. Memory is limited, whatever
//     the stream asks for in its headers: MaxWindow.
//   - Data that was read before an error is not to be trusted.
//
// Which implementation decodes xz, and why, is in
// doc/decisions/20261121_xz.md.
package compress
