package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/objstore"
)

// Put stores an object.
func (b *bucket) Put(ctx context.Context, name string, body io.Reader, o objstore.PutOptions) error {
	key, err := b.key(name)
	if err != nil {
		return err
	}
	if there, err := o.Unwanted(ctx, b, name); there || err != nil {
		return err
	}
	whole, done, err := objstore.Sized(ctx, body, o.Size)
	if err != nil {
		return err
	}
	defer done()
	if b.o.Multipart && whole.Size() > b.o.Threshold {
		return b.translate(*key, b.putParts(ctx, key, whole, o))
	}
	if whole.Size() > MaxChunk {
		return fmt.Errorf("s3://%s/%s has %d bytes, and can only be uploaded with multipart-upload", b.o.Bucket, *key, whole.Size())
	}
	in := &s3.PutObjectInput{
		Bucket: &b.o.Bucket, Key: key, Body: whole, ContentLength: aws.Int64(whole.Size()),
		StorageClass: b.storageClass(), ContentType: optional(o.ContentType), ContentEncoding: optional(o.ContentEncoding),
	}
	_, err = b.client.PutObject(ctx, in)
	return b.translate(*key, err)
}

// optional is nil for "".
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// partsAtOnce is how many parts of an object are under way at once.
const partsAtOnce = 4

// abortWithin is how long it may take to give up an upload.
const abortWithin = time.Minute

// putParts uploads an object in parts, of which nothing stays when that fails.
func (b *bucket) putParts(ctx context.Context, key *string, whole *io.SectionReader, o objstore.PutOptions) (err error) {
	chunk := b.o.ChunkSize
	if least := (whole.Size() + maxParts - 1) / maxParts; chunk < least {
		if least > MaxChunk {
			return fmt.Errorf("%d bytes are more than %d parts of %d bytes", whole.Size(), maxParts, int64(MaxChunk))
		}
		activity.Warnf(ctx, "parts of %d bytes instead of %d for '%s', so that there are no more than %d", least, chunk, *key, maxParts)
		chunk = least
	}
	upload, err := b.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: &b.o.Bucket, Key: key,
		StorageClass: b.storageClass(), ContentType: optional(o.ContentType), ContentEncoding: optional(o.ContentEncoding),
	})
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortWithin)
		defer cancel()
		_, aborted := b.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &b.o.Bucket, Key: key, UploadId: upload.UploadId})
		if aborted != nil {
			err = errors.Join(err, fmt.Errorf("giving up the upload: %w", aborted))
		}
	}()
	parts, err := b.uploadParts(ctx, key, upload.UploadId, whole, chunk)
	if err != nil {
		return err
	}
	_, err = b.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &b.o.Bucket, Key: key, UploadId: upload.UploadId,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	return err
}

func (b *bucket) uploadParts(ctx context.Context, key, id *string, whole *io.SectionReader, chunk int64) ([]types.CompletedPart, error) {
	parts := make([]types.CompletedPart, (whole.Size()+chunk-1)/chunk)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(partsAtOnce)
	for i := range parts {
		g.Go(func() error {
			from := int64(i) * chunk
			n := min(chunk, whole.Size()-from)
			number := aws.Int32(int32(i + 1))
			out, err := b.client.UploadPart(ctx, &s3.UploadPartInput{
				Bucket: &b.o.Bucket, Key: key, UploadId: id, PartNumber: number,
				Body: io.NewSectionReader(whole, from, n), ContentLength: &n,
			})
			if err != nil {
				return fmt.Errorf("part %d: %w", i+1, err)
			}
			parts[i] = types.CompletedPart{PartNumber: number, ETag: out.ETag}
			return nil
		})
	}
	return parts, g.Wait()
}
