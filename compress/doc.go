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
//     wraps io.ErrUnexpectedEOF, bytes after its end wrap ErrTrailing (of a large
//     xz stream ErrCorrupt: XZ Utils do not tell one from the other). Several
//     streams one after the other are one, for all methods but brotli, whose
//     format has no room for that.
//   - Readers work in the goroutine of whoever reads. Writers may have goroutines.
//     Both may have a child process for xz. Only Close ends these.
//   - How much comes out is not limited: a few kilobytes can become gigabytes.
//     What they are written to must have a limit. Memory is limited, whatever
//     the stream asks for in its headers: MaxWindow.
//   - Data that was read before an error is not to be trusted.
//
// How xz is read and written, and why so, is in doc/decisions/20261121_xz.md.
package compress
