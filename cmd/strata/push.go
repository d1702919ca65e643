package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/storepath"
)

type pushOptions struct {
	selection
	noClosure   bool
	keyFiles    []string
	compression string
	level       string
	lazy        bool
	rewrite     bool
	jobs        int
	dryRun      bool
	json        bool
}

func newPushCommand(g *globals) *cobra.Command {
	var o pushOptions
	cmd := &cobra.Command{
		Use:   "push CACHE PATH...",
		Short: "Upload closures to a binary cache",
		Long: `Upload store paths, with all that they refer to, to a binary cache: file:///DIR,
s3://BUCKET or http(s)://HOST/. What the cache has is passed over; it is asked
for many paths at a time. Each path that was uploaded is printed when it and all
that it refers to can be had from there.

The paths come from the store of --store. The cache's URI may have parameters,
such as write-nar-listing=true; the flags below win over them. --lazy is short for
seekable=true and write-file-index=true, and needs zstd, its default, or none.

With write-file-index=true, what the cache has without a file index gets one: its
NAR is read from there. Where a NAR can only be read as a whole an index is of no
use, which is said; with --rewrite such objects are uploaded anew.`,
		Example: `  strata push --key-file cache.secret 's3://my-cache?region=eu-central-1' ./result
  strata push --compression zstd --jobs 32 file:///srv/cache /run/current-system`,
		Args: someArgs,
		RunE: runner(func(ctx context.Context, args []string) error { return runPush(ctx, g, o, args) }),
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.keyFiles, "key-file", "k", nil, "sign with the secret key in `FILE`; may be repeated")
	f.StringVar(&o.compression, "compression", "", "compress NARs by `METHOD`: none, xz, zstd, gzip, bzip2 or br (default xz)")
	f.StringVar(&o.level, "compression-level", "", "compress so hard, by the method's own `NUMBER`")
	f.BoolVar(&o.lazy, "lazy", false, "let lazy stores read single files: write signed file indexes, and zstd that can be entered anywhere")
	f.BoolVar(&o.rewrite, "rewrite", false, "with --lazy: upload anew what the cache has in a form that can only be read as a whole")
	f.IntVarP(&o.jobs, "jobs", "j", 0, "upload `N` objects at once (default 16)")
	f.BoolVar(&o.noClosure, "no-closure", false, "upload nothing but the paths themselves")
	f.BoolVar(&o.all, "all", false, "upload all paths of the store")
	f.StringVar(&o.fromFile, "from-file", "", "also upload the paths in `FILE`, one per line; - is standard input")
	f.BoolVar(&o.dryRun, "dry-run", false, "only print the paths that would be uploaded")
	f.BoolVar(&o.json, "json", false, "print JSON about what was uploaded")
	return cmd
}

// cache is the URI with what flags say of it.
func (o pushOptions) cache(uri string) (string, error) {
	ref, err := parseReference(uri)
	if err != nil {
		return "", &usageError{err}
	}
	switch ref.Scheme {
	case "file", "http", "https", "s3":
	default:
		return "", &usageError{fmt.Errorf("'%s' is not a binary cache; see 'strata copy' for other stores", uri)}
	}
	if o.compression != "" {
		if _, err := compress.Parse(o.compression); err != nil {
			return "", &usageError{err}
		}
		ref.Params["compression"] = []string{o.compression}
	}
	if o.lazy {
		ref.Params["seekable"], ref.Params["write-file-index"] = []string{"true"}, []string{"true"}
	}
	if o.level != "" {
		if _, err := strconv.Atoi(o.level); err != nil {
			return "", &usageError{fmt.Errorf("--compression-level is '%s', which is not a number", o.level)}
		}
		ref.Params["compression-level"] = []string{o.level}
	}
	if len(o.keyFiles) > 0 {
		var files []string
		for _, file := range o.keyFiles {
			abs, err := filepath.Abs(file)
			if err != nil {
				return "", err
			}
			if strings.Contains(abs, ",") {
				return "", &usageError{fmt.Errorf("'%s' has a comma in it, which stands between keys", file)}
			}
			files = append(files, abs)
		}
		ref.Params["secret-keys"] = []string{strings.Join(files, ",")}
		delete(ref.Params, "secret-key")
	}
	return ref.String(), nil
}

func runPush(ctx context.Context, g *globals, o pushOptions, args []string) (err error) {
	if o.jobs < 0 {
		return &usageError{errors.New("--jobs must not be negative")}
	}
	if o.rewrite && !o.lazy {
		return &usageError{errors.New("--rewrite goes with --lazy")}
	}
	uri, err := o.cache(args[0])
	if err != nil {
		return err
	}
	dir, err := g.storeDir(g.storeURI)
	if err != nil {
		return err
	}
	o.closure = !o.noClosure && !o.all
	if err := o.parse(ctx, g, dir, args[1:]); err != nil {
		return err
	}
	src, err := g.open(ctx)
	if err != nil {
		return err
	}
	defer closeWith(src, &err)
	dst, err := g.openDestination(ctx, uri)
	if err != nil {
		return err
	}
	defer closeWith(dst, &err)
	infos, err := o.infos(ctx, src)
	if err != nil {
		return err
	}
	t := &transfer{src: src, dst: dst, noCheckSigs: true, jobs: o.jobs}
	if err := t.plan(ctx, infos); err != nil {
		return err
	}
	var x indexed
	if ref, err := parseReference(uri); err == nil && ref.Param("write-file-index") == "true" && !o.dryRun {
		if x, err = addIndexes(ctx, dst, t.there); err != nil {
			return err
		}
		if o.rewrite {
			if err := x.keepSignatures(ctx, dst); err != nil {
				return err
			}
			t.repair, t.items, t.present = len(x.items) > 0, append(t.items, x.items...), t.present-len(x.items)
		}
		x.tell(ctx, o.rewrite)
	}
	activity.Logf(ctx, activity.Info, "uploading %d paths (%s), %d are already there", len(t.items), size(t.size()), t.present)
	return o.push(ctx, g, t, x)
}

func (o pushOptions) push(ctx context.Context, g *globals, t *transfer, x indexed) error {
	var pushed []storepath.Path
	var outErr error
	done := func(p storepath.Path) {
		pushed = append(pushed, p)
		if !o.json && outErr == nil {
			outErr = errors.Join(g.out.println(t.dst.Dir().Print(p)), g.out.flush())
		}
	}
	var err error
	if o.dryRun {
		for _, p := range t.paths() {
			done(p)
		}
	} else {
		err = t.run(ctx, done)
	}
	if err == nil && !o.dryRun {
		err = t.realise(ctx, o.realised)
	}
	if o.json {
		outErr = g.out.printJSON(struct {
			Pushed       []string `json:"pushed"`
			AlreadyThere int      `json:"alreadyThere"`
			NarSize      uint64   `json:"narSize"`
			Indexed      []string `json:"indexed,omitempty"`
			NotSeekable  []string `json:"notSeekable,omitempty"`
		}{t.dst.Dir().PrintAll(pushed), t.present, t.size(), t.dst.Dir().PrintAll(x.written), t.dst.Dir().PrintAll(x.whole)})
	}
	return errors.Join(err, outErr)
}
