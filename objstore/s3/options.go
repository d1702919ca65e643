package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/objstore"
)

// Addressing says where in a URL the bucket is ("addressing-style").
type Addressing string

// The styles.
const (
	Auto    Addressing = "auto"    // in the host's name at AWS, in the path elsewhere
	Path    Addressing = "path"    // in the path
	Virtual Addressing = "virtual" // in the host's name
)

// Limits of S3, and Nix's defaults.
const (
	MinChunk         = 5 << 20 // bytes of a part of an upload, but the last
	MaxChunk         = 5 << 30 // bytes of a part, and of an upload without parts
	maxParts         = 10_000
	DefaultChunk     = MinChunk
	DefaultThreshold = 100 << 20
	DefaultRegion    = "us-east-1"
	DefaultAttempts  = 5
)

// Options are the settings of a bucket, named as in Nix.
type Options struct {
	Bucket string
	Prefix string // what the names of all objects begin with, without a slash at its end

	Profile    string // of the AWS configuration; "": what the environment says, or the default
	Region     string // "": what the environment or the profile says, or DefaultRegion
	Scheme     string // "https" or "http"; "": https
	Endpoint   string // a host with or without a port, or a URL; "": AWS
	Addressing Addressing

	// Multipart uploads what is larger than Threshold in parts of ChunkSize bytes
	// ("multipart-upload", "multipart-threshold", "multipart-chunk-size" or
	// "buffer-size"); 0: the defaults.
	Multipart    bool
	ChunkSize    int64
	Threshold    int64
	StorageClass string // "storage-class"; "": what the bucket has

	// Attempts is how often a request is made that fails ("download-attempts"); 0: the
	// default.
	Attempts int
	// Transport, if not nil, carries the requests to the bucket; those for credentials
	// go their own way.
	Transport http.RoundTripper
}

// withDefaults checks the options and fills in what is not set.
func (o Options) withDefaults() (Options, error) {
	if o.Bucket == "" || strings.ContainsAny(o.Bucket, "/:@?#% ") {
		return o, fmt.Errorf("'%.100s' is not the name of a bucket", o.Bucket)
	}
	if o.Prefix != "" {
		if err := objstore.CheckName(o.Prefix); err != nil {
			return o, err
		}
	}
	o.Scheme = cmp.Or(o.Scheme, "https")
	if o.Scheme != "http" && o.Scheme != "https" {
		return o, fmt.Errorf("scheme '%.40s' of a bucket is neither http nor https", o.Scheme)
	}
	o.Addressing = cmp.Or(o.Addressing, Auto)
	switch o.Addressing {
	case Auto, Path:
	case Virtual:
		if strings.Contains(o.Bucket, ".") {
			return o, fmt.Errorf("bucket name '%s' has a dot, which does not go with addressing-style=virtual: "+
				"certificates of servers do not cover it; use 'path' or 'auto'", o.Bucket)
		}
	default:
		return o, fmt.Errorf("unknown addressing-style '%.40s', expected 'auto', 'path' or 'virtual'", o.Addressing)
	}
	o.ChunkSize = cmp.Or(o.ChunkSize, DefaultChunk)
	o.Threshold = cmp.Or(o.Threshold, DefaultThreshold)
	if o.ChunkSize < MinChunk || o.ChunkSize > MaxChunk {
		return o, fmt.Errorf("multipart-chunk-size %d is not between %d and %d", o.ChunkSize, int64(MinChunk), int64(MaxChunk))
	}
	o.Attempts = cmp.Or(o.Attempts, DefaultAttempts)
	return o, nil
}

// endpoint is where the server is, "" for AWS.
func (o *Options) endpoint() (string, error) {
	if o.Endpoint == "" {
		return "", nil
	}
	text := o.Endpoint
	if !strings.Contains(text, "://") {
		text = o.Scheme + "://" + text
	}
	u, err := url.Parse(text)
	if err == nil && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		err = errors.New("it is neither a host nor a URL")
	}
	if err != nil {
		return "", fmt.Errorf("endpoint '%.200s' of bucket '%s': %w", o.Endpoint, o.Bucket, err)
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// pathStyle tells that the bucket is in the path.
func (o *Options) pathStyle() bool {
	switch o.Addressing {
	case Path:
		return true
	case Virtual:
		return false
	}
	return o.Endpoint != "" || strings.Contains(o.Bucket, ".")
}

// client makes what makes requests, with credentials as all AWS tools find them. Where
// there are none requests are not signed, which is enough for a public bucket.
func (o *Options) client(ctx context.Context) (*s3.Client, error) {
	endpoint, err := o.endpoint()
	if err != nil {
		return nil, err
	}
	loads := []func(*config.LoadOptions) error{
		config.WithRetryMaxAttempts(o.Attempts),
		// Other servers than AWS's do not know what came later.
		config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired),
		config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired),
	}
	if o.Profile != "" {
		loads = append(loads, config.WithSharedConfigProfile(o.Profile))
	}
	if o.Region != "" {
		loads = append(loads, config.WithRegion(o.Region))
	}
	c, err := config.LoadDefaultConfig(ctx, loads...)
	if err != nil {
		return nil, fmt.Errorf("configuration of AWS for bucket '%s': %w", o.Bucket, err)
	}
	c.Region = cmp.Or(c.Region, DefaultRegion)
	if c.Credentials != nil {
		if _, err := c.Credentials.Retrieve(ctx); err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if o.Profile != "" {
				return nil, fmt.Errorf("credentials of profile '%s' for bucket '%s': %w", o.Profile, o.Bucket, err)
			}
			activity.Logf(ctx, activity.Info, "no credentials for bucket '%s', going on without: %v", o.Bucket, err)
			c.Credentials = aws.AnonymousCredentials{}
		}
	}
	return s3.NewFromConfig(c, func(so *s3.Options) {
		so.UsePathStyle = o.pathStyle()
		so.DisableLogOutputChecksumValidationSkipped = true
		if endpoint != "" {
			so.BaseEndpoint = &endpoint
		}
		if o.Transport != nil {
			so.HTTPClient = &http.Client{Transport: o.Transport}
		}
		so.EndpointOptions.DisableHTTPS = o.Scheme == "http"
	}), nil
}
