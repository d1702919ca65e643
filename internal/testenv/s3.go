package testenv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// s3Module is the module, relative to our own, that holds the S3 server for tests.
const s3Module = "tools/s3server"

// S3 is a running S3 server. Its buckets are the directories in Dir, their objects the
// files in those.
type S3 struct {
	Endpoint  string // http://127.0.0.1:<port>
	Region    string
	AccessKey string
	SecretKey string
	Dir       string
	Process   *Process
}

// S3Server starts a server without buckets on the loopback interface. It ends with
// the test. The first use downloads and builds it, which takes minutes; without a
// Go module proxy the test is skipped.
func S3Server(t testing.TB) *S3 {
	t.Helper()
	bin, err := S3Binary(t.Context(), false, io.Discard)
	if err != nil {
		Skipf(t, "needs an S3 server: %v", err)
	}
	scratch := Scratch(t)
	s := &S3{Region: "eu-test-1", AccessKey: "strata-test", SecretKey: "not-a-secret", Dir: filepath.Join(scratch, "buckets")}
	meta := filepath.Join(scratch, "meta")
	for _, dir := range []string{s.Dir, meta} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	address := freeAddress(t)
	s.Endpoint = "http://" + address
	// Metadata goes to files beside the objects, as not every file system has
	// extended attributes.
	cmd := exec.Command(bin, "--port", address, "--region", s.Region, "--access", s.AccessKey, "--secret", s.SecretKey,
		"--quiet", "--keep-alive", "posix", "--sidecar", meta, s.Dir)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + scratch, "TMPDIR=" + scratch}
	s.Process = Start(t, cmd)
	t.Cleanup(s.Process.Kill) // asked to end it waits for clients that keep connections
	s.Process.waitAddress(address)
	return s
}

// Bucket makes a bucket.
func (s *S3) Bucket(t testing.TB, name string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(s.Dir, name), 0o755); err != nil {
		t.Fatal(err)
	}
}

// Publish lets everybody read and write a bucket without credentials, which not
// every client can show.
func (s *S3) Publish(t testing.TB, bucket string) {
	t.Helper()
	client := s3.New(s3.Options{
		Region: s.Region, BaseEndpoint: &s.Endpoint, UsePathStyle: true,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: s.AccessKey, SecretAccessKey: s.SecretKey}, nil
		}),
	})
	policy := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:*",
		"Resource":["arn:aws:s3:::%[1]s","arn:aws:s3:::%[1]s/*"]}]}`, bucket)
	if _, err := client.PutBucketPolicy(t.Context(), &s3.PutBucketPolicyInput{Bucket: &bucket, Policy: &policy}); err != nil {
		t.Fatal(err)
	}
}

// Environ are the variables in which tools of AWS look for credentials, and those that
// keep them from looking elsewhere.
func (s *S3) Environ() map[string]string {
	return map[string]string{
		"AWS_ACCESS_KEY_ID": s.AccessKey, "AWS_SECRET_ACCESS_KEY": s.SecretKey,
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
		"AWS_PROFILE": "", "AWS_SESSION_TOKEN": "", "AWS_CA_BUNDLE": "",
	}
}

// S3Binary gives the server's program. A recent failure to make it is not tried again
// unless retry is set.
func S3Binary(ctx context.Context, retry bool, log io.Writer) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(root, s3Module, name))
		if err != nil {
			return "", err
		}
		h.Write(text)
	}
	dir, err := cached(ctx, "s3server-"+hex.EncodeToString(h.Sum(nil)[:8]), retry, func(ctx context.Context, dir string) error {
		tail := &tailBuffer{max: 2000}
		cmd := exec.CommandContext(ctx, "go", "build", "-C", filepath.Join(root, s3Module), "-trimpath",
			"-o", filepath.Join(dir, "s3server"), "github.com/versity/versitygw/cmd/versitygw")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stdout = io.MultiWriter(log, tail)
		cmd.Stderr = cmd.Stdout
		cmd.WaitDelay = 10 * time.Second
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("build the S3 server: %w; its output ended:\n%s", err, tail.b)
		}
		return nil
	})
	return filepath.Join(dir, "s3server"), err
}

// freeAddress is one of the loopback interface on which nobody listens.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
