package lease

import (
	"errors"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/objstore/s3"
)

// A bucket is a place like any other: leases, their replacement, and marks.
func TestBucket(t *testing.T) {
	server := testenv.S3Server(t)
	server.Bucket(t, "bucket")
	for name, value := range server.Environ() {
		t.Setenv(name, value)
	}
	objects, err := s3.Open(t.Context(), s3.Options{
		Bucket: "bucket", Prefix: "base/leases", Region: server.Region, Endpoint: server.Endpoint,
	})
	if err != nil {
		t.Fatal(err)
	}
	p := NewPlace(objects, "s3://bucket/base/leases")
	if _, err := p.Roots(t.Context(), storeWith(t)); !errors.Is(err, ErrNoTerms) {
		t.Errorf("without terms: %v", err)
	}
	initPlace(t, p, Terms{})
	a, b := path(t, "a"), path(t, "b")
	k := keeper(t, p, "c", newLower(a, b), a)
	if _, err := k.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := k.Lean(t.Context(), paths(t, "b")); err != nil {
		t.Fatal(err)
	}
	c, err := p.Collect(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	if at, err := p.running(t.Context(), Terms{}, false); err != nil || len(at) != 1 || at[0].Who != "test" {
		t.Errorf("%+v, %v", at, err)
	}
	if roots, err := p.Roots(c.Context(), storeWith(t, a, b)); err != nil || len(roots) != 2 {
		t.Errorf("%v, %v", roots, err)
	}
	if err := c.End(); err != nil {
		t.Fatal(err)
	}
	if at, err := p.running(t.Context(), Terms{}, false); err != nil || len(at) != 0 {
		t.Errorf("at its end: %+v, %v", at, err)
	}
	if err := p.Drop(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if roots, err := p.Roots(t.Context(), storeWith(t, a, b)); err != nil || len(roots) != 0 {
		t.Errorf("dropped: %v, %v", roots, err)
	}
}
