// Package filetransfer gets things by HTTP and HTTPS, and puts them there, the
// way Nix does: with its settings, its idea of which failures pass, its user
// agent and its netrc files, and with activities that stock clients show.
//
//	c := filetransfer.New(opts)
//	res, err := c.Get(ctx, &filetransfer.Request{URL: u})
//	…
//	defer res.Body.Close()
//	… io.Copy(dst, res.Body) …
//
// What may pass is tried again, with waits that double and are never the same
// for two clients, and no sooner than the server asks for. A body that breaks off
// is continued where it broke, if the server says that it is still the same
// thing (a strong ETag, or the time of its last modification): two versions are
// never put together. Bodies stream at the pace of who reads them, so that there is no
// buffer whose size could be set (download-buffer-size).
//
// # Credentials
//
// What a request brings along (Authorization and all other headers of
// Request.Header, user and password in the URL, client certificates) is sent to
// the origin of its URL, and nowhere else: an origin is scheme, host and port. A
// redirect that leads elsewhere gets what the netrc file has for the new host,
// unless it leads from https to http. Messages never show the user and password
// of a URL.
//
// # What will bite
//
//   - Options.Connections counts requests, from their start until their Body is
//     closed or was read to its end. Whoever holds as many bodies as there may be
//     and asks for one more without reading them waits for ever. A request that
//     waits for its next attempt does not count.
//   - Response.Body must be closed.
package filetransfer
