// Package s3 is object storage in a bucket of S3, or of a service that speaks the
// same protocol.
//
// Credentials are found as all tools of AWS find them: environment, shared
// configuration and its profiles, containers and machines of AWS. Requests that fail
// are made again, and downloads that break off continue.
//
// Source of the settings: src/libstore/s3-binary-cache-store.cc and s3-url.cc of Nix
// 2.34.8.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/strata-nix/strata/objstore"
)

// bucket is the storage.
type bucket struct {
	o      Options
	client *s3.Client
}

// Open makes storage of a bucket, which need not be there yet. It looks for
// credentials, which may mean to ask a server for them.
func Open(ctx context.Context, o Options) (objstore.Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	client, err := o.client(ctx)
	if err != nil {
		return nil, err
	}
	return objstore.Resume(&bucket{o: o, client: client}, o.Attempts), nil
}

// key is the name of an object in the bucket.
func (b *bucket) key(name string) (*string, error) {
	if err := objstore.CheckName(name); err != nil {
		return nil, err
	}
	if b.o.Prefix != "" {
		name = b.o.Prefix + "/" + name
	}
	return &name, nil
}

// translate says what an error means, and of which object.
func (b *bucket) translate(key string, err error) error {
	if err == nil {
		return nil
	}
	at := fmt.Sprintf("s3://%s/%s", b.o.Bucket, key)
	if api, ok := errors.AsType[smithy.APIError](err); ok && api.ErrorCode() == "NoSuchBucket" {
		return fmt.Errorf("%s: %w", at, err) // which is not to say that there is no such object
	}
	var kind error
	if res, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		switch res.HTTPStatusCode() {
		case http.StatusNotFound:
			kind = objstore.ErrNotExist
		case http.StatusUnauthorized, http.StatusForbidden:
			kind = objstore.ErrForbidden
		case http.StatusPreconditionFailed:
			kind = objstore.ErrChanged
		}
	}
	if kind == nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	return fmt.Errorf("%s: %w: %w", at, kind, err)
}

// Get opens an object.
func (b *bucket) Get(ctx context.Context, name string, o objstore.GetOptions) (io.ReadCloser, objstore.Info, error) {
	key, err := b.key(name)
	if err != nil {
		return nil, objstore.Info{}, err
	}
	in := &s3.GetObjectInput{Bucket: &b.o.Bucket, Key: key, Range: byteRange(o)}
	if o.ETag != "" {
		in.IfMatch = &o.ETag
	}
	out, err := b.client.GetObject(ctx, in)
	if err != nil {
		return nil, objstore.Info{}, b.translate(*key, err)
	}
	if o.OnlyPart && in.Range != nil && out.ContentRange == nil {
		_ = out.Body.Close() // not wanted
		return nil, objstore.Info{}, b.translate(*key, objstore.ErrNoRanges)
	}
	return out.Body, objstore.Info{
		Name: name, Size: wholeSize(out), ETag: aws.ToString(out.ETag), ContentEncoding: encoding(out.ContentEncoding),
	}, nil
}

// byteRange is the wanted part in the words of HTTP.
func byteRange(o objstore.GetOptions) *string {
	switch {
	case o.Length > 0:
		return aws.String(fmt.Sprintf("bytes=%d-%d", o.Offset, o.Offset+o.Length-1))
	case o.Offset > 0:
		return aws.String(fmt.Sprintf("bytes=%d-", o.Offset))
	}
	return nil
}

// wholeSize is the size of the object of which a part came.
func wholeSize(out *s3.GetObjectOutput) int64 {
	if out.ContentRange == nil {
		if out.ContentLength == nil {
			return objstore.Unknown
		}
		return *out.ContentLength
	}
	_, total, _ := strings.Cut(*out.ContentRange, "/")
	n, err := strconv.ParseInt(total, 10, 64)
	if err != nil || n < 0 {
		return objstore.Unknown
	}
	return n
}

// encoding leaves out what was only for the way here, and some servers keep.
func encoding(s *string) string {
	return strings.Trim(strings.ReplaceAll(aws.ToString(s), "aws-chunked", ""), ", ")
}

// Stat tells about an object.
func (b *bucket) Stat(ctx context.Context, name string) (objstore.Info, error) {
	key, err := b.key(name)
	if err != nil {
		return objstore.Info{}, err
	}
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.o.Bucket, Key: key})
	if err != nil {
		return objstore.Info{}, b.translate(*key, err)
	}
	size := int64(objstore.Unknown)
	if out.ContentLength != nil {
		size = *out.ContentLength
	}
	return objstore.Info{Name: name, Size: size, ETag: aws.ToString(out.ETag), ContentEncoding: encoding(out.ContentEncoding)}, nil
}

// List lists a directory.
func (b *bucket) List(ctx context.Context, dir string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		prefix := ""
		if dir != "" {
			if err := objstore.CheckName(dir); err != nil {
				yield(objstore.Info{}, err)
				return
			}
			prefix = dir + "/"
		}
		top := ""
		if b.o.Prefix != "" {
			top = b.o.Prefix + "/"
		}
		pages := s3.NewListObjectsV2Paginator(b.client, &s3.ListObjectsV2Input{
			Bucket: &b.o.Bucket, Prefix: aws.String(top + prefix), Delimiter: aws.String("/"),
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(objstore.Info{}, b.translate(top+prefix, err))
				return
			}
			for _, o := range page.Contents {
				// A name that ends in a slash is how some tools make directories.
				name := strings.TrimPrefix(aws.ToString(o.Key), top)
				if objstore.CheckName(name) != nil {
					continue
				}
				if !yield(objstore.Info{Name: name, Size: aws.ToInt64(o.Size), ETag: aws.ToString(o.ETag)}, nil) {
					return
				}
			}
		}
	}
}

// Delete removes an object.
func (b *bucket) Delete(ctx context.Context, name string) error {
	key, err := b.key(name)
	if err != nil {
		return err
	}
	_, err = b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.o.Bucket, Key: key})
	if err = b.translate(*key, err); errors.Is(err, objstore.ErrNotExist) {
		return nil
	}
	return err
}

// storageClass is that of new objects.
func (b *bucket) storageClass() types.StorageClass { return types.StorageClass(b.o.StorageClass) }
