package lease

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/storepath"
)

// Names of the objects of a place.
const (
	termsName     = "strata-leases.json"
	leasesDir     = "leases"
	leaseSuffix   = ".lease"
	collectingDir = "collecting"
)

// maxTerms bounds the small objects.
const maxTerms = 64 << 10

// Place is where the leases on one lower are.
type Place struct {
	objects objstore.Store
	name    string
	now     func() time.Time
}

// NewPlace makes it of a storage. name is what messages call it. Nothing is read
// or written yet.
func NewPlace(objects objstore.Store, name string) *Place {
	return &Place{objects: objects, name: name, now: time.Now}
}

// OpenDirectory makes it of a directory, in which what is published is on disk
// when that is said.
func OpenDirectory(dir string) (*Place, error) {
	d, err := objstore.NewDirectory(dir)
	if err != nil {
		return nil, err
	}
	return NewPlace(d.Durable(), dir), nil
}

// String is what messages call it.
func (p *Place) String() string { return p.name }

// wireTerms is strata-leases.json.
type wireTerms struct {
	Version  int    `json:"version"`
	StoreDir string `json:"store"`
	Term     string `json:"term"`
	Grace    string `json:"grace"`
	Skew     string `json:"skew"`
	Settle   string `json:"settle"`
}

// Init lays terms down, for the owner of the lower. What is not set in them has
// defaults. Terms that are there already are replaced.
func (p *Place) Init(ctx context.Context, t Terms) error {
	t = t.withDefaults()
	if err := t.check(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(wireTerms{
		Version: version, StoreDir: string(t.StoreDir),
		Term: t.Term.String(), Grace: t.Grace.String(), Skew: t.Skew.String(), Settle: t.Settle.String(),
	}, "", "  ")
	if err != nil {
		return err
	}
	return p.put(ctx, termsName, append(text, '\n'), "application/json")
}

// Terms reads the terms. [ErrNoTerms] says that there are none.
func (p *Place) Terms(ctx context.Context) (Terms, error) {
	fail := func(err error) (Terms, error) {
		return Terms{}, fmt.Errorf("'%s' %w: its terms ('%s') cannot be read: %w", p.name, ErrNoTerms, termsName, err)
	}
	text, err := p.get(ctx, termsName, maxTerms)
	if errors.Is(err, objstore.ErrNotExist) {
		return Terms{}, fmt.Errorf("'%s' %w: there is no '%s' in it; its file system may not be mounted, or its owner has not run 'strata lease init'",
			p.name, ErrNoTerms, termsName)
	}
	if err != nil {
		return fail(err)
	}
	t, err := parseTerms(text)
	if err != nil {
		return fail(err)
	}
	return t, nil
}

func parseTerms(text []byte) (t Terms, err error) {
	var w wireTerms
	if err := json.Unmarshal(text, &w); err != nil {
		return t, err
	}
	if w.Version != version {
		return t, fmt.Errorf("they are of version %d, and this program reads version %d", w.Version, version)
	}
	if t.StoreDir, err = storepath.ParseDir(w.StoreDir); err != nil {
		return t, err
	}
	for _, d := range []struct {
		to   *time.Duration
		text string
	}{{&t.Term, w.Term}, {&t.Grace, w.Grace}, {&t.Skew, w.Skew}, {&t.Settle, w.Settle}} {
		if *d.to, err = time.ParseDuration(d.text); err != nil {
			return t, err
		}
	}
	return t, t.check()
}

func leaseName(consumer string) string { return leasesDir + "/" + consumer + leaseSuffix }

// header reads what is said of a consumer's lease; nil if there is none.
func (p *Place) header(ctx context.Context, consumer string) (*Lease, error) {
	return leaving(ctx, func() (*Lease, error) {
		r, _, err := p.objects.Get(ctx, leaseName(consumer), objstore.GetOptions{Length: maxHeader})
		if errors.Is(err, objstore.ErrNotExist) {
			return nil, nil //nolint:nilnil // none is an answer
		}
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return decodeHeader(r)
	})
}

// Read reads a consumer's lease.
func (p *Place) Read(ctx context.Context, consumer string) (*Lease, error) {
	if err := CheckConsumer(consumer); err != nil {
		return nil, err
	}
	return p.read(ctx, leaseName(consumer))
}

func (p *Place) read(ctx context.Context, name string) (*Lease, error) {
	defer p.asking(ctx, name)()
	l, err := leaving(ctx, func() (*Lease, error) {
		r, _, err := p.objects.Get(ctx, name, objstore.GetOptions{})
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return Decode(r)
	})
	if err == nil && leaseName(l.Consumer) != name {
		err = malformed("it is that of '%s'", l.Consumer)
	}
	if err != nil {
		return nil, &UnreadableError{Place: p.name, Name: name, Err: err}
	}
	return l, nil
}

// Drop takes a consumer's lease away. That there is none is no error.
func (p *Place) Drop(ctx context.Context, consumer string) error {
	if err := CheckConsumer(consumer); err != nil {
		return err
	}
	if _, err := p.Terms(ctx); err != nil {
		return err
	}
	return p.objects.Delete(ctx, leaseName(consumer))
}

// DropOwn takes a consumer's lease away if it is that of a holder. One that cannot be
// read stays: it may be another's.
func (p *Place) DropOwn(ctx context.Context, consumer, holder string) error {
	l, err := p.header(ctx, consumer)
	if err != nil || l == nil || l.Holder != holder {
		return err
	}
	return p.Drop(ctx, consumer)
}

func (p *Place) get(ctx context.Context, name string, most int64) ([]byte, error) {
	defer p.asking(ctx, name)()
	return leaving(ctx, func() ([]byte, error) {
		r, _, err := p.objects.Get(ctx, name, objstore.GetOptions{})
		if err != nil {
			return nil, err
		}
		defer r.Close()
		b, err := io.ReadAll(io.LimitReader(r, most+1))
		if err == nil && int64(len(b)) > most {
			err = fmt.Errorf("it has more than %d bytes", most)
		}
		return b, err
	})
}

func (p *Place) put(ctx context.Context, name string, data []byte, contentType string) error {
	defer p.asking(ctx, name)()
	err := p.objects.Put(ctx, name, bytes.NewReader(data), objstore.PutOptions{Size: int64(len(data)), ContentType: contentType})
	if err != nil {
		return fmt.Errorf("publishing '%s' in '%s': %w", name, p.name, err)
	}
	crashpoint.Reached("lease: published " + name)
	return nil
}
