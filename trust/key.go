package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/strata-nix/strata/store"
)

// ErrKey is the cause of every error about a text that is not a key.
var ErrKey = errors.New("malformed key")

// maxKey bounds the bytes of a key's text.
const maxKey = 4096

// PublicKey checks signatures. It is comparable.
type PublicKey struct {
	name string
	key  [ed25519.PublicKeySize]byte
}

// ParsePublicKey reads "<name>:<base64>".
func ParsePublicKey(text string) (PublicKey, error) {
	name, data, err := parseKey(text)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: public key '%.200s': %w", ErrKey, text, err)
	}
	k := PublicKey{name: name}
	if len(data) != len(k.key) {
		return PublicKey{}, fmt.Errorf("%w: public key '%.200s' is not valid: %d bytes instead of %d", ErrKey, text, len(data), len(k.key))
	}
	copy(k.key[:], data)
	return k, nil
}

// Name is the name of the key.
func (k PublicKey) Name() string { return k.name }

// String is the inverse of ParsePublicKey.
func (k PublicKey) String() string {
	return k.name + ":" + base64.StdEncoding.EncodeToString(k.key[:])
}

// Verify tells whether sig is the signature of a fingerprint by this key.
func (k PublicKey) Verify(fingerprint string, sig store.Signature) bool {
	name, text, _ := strings.Cut(string(sig), ":")
	if name != k.name || len(text) > base64.StdEncoding.EncodedLen(ed25519.SignatureSize) {
		return false
	}
	data, err := decode(text)
	return err == nil && len(data) == ed25519.SignatureSize && ed25519.Verify(k.key[:], []byte(fingerprint), data)
}

// SecretKey makes signatures. It is shown with its secret left out; see Text.
type SecretKey struct {
	name   string
	secret *secret
}

// secret is behind a pointer, which fmt does not follow where it cannot call
// String, inside of somebody's unexported field.
type secret struct{ key ed25519.PrivateKey }

// ParseSecretKey reads "<name>:<base64>", as it is in a file, with or without a
// newline at the end. Errors do not tell what the text was.
func ParseSecretKey(text string) (SecretKey, error) {
	name, data, err := parseKey(strings.TrimRight(text, "\r\n"))
	if err != nil {
		return SecretKey{}, fmt.Errorf("%w: secret key: %w", ErrKey, err)
	}
	if len(data) != ed25519.PrivateKeySize {
		return SecretKey{}, fmt.Errorf("%w: secret key '%.200s' is not valid: %d bytes instead of %d", ErrKey, name, len(data), ed25519.PrivateKeySize)
	}
	// Signing with a public half that is not its own would give the secret away.
	key := ed25519.NewKeyFromSeed(data[:ed25519.SeedSize])
	if !key.Equal(ed25519.PrivateKey(data)) {
		return SecretKey{}, fmt.Errorf("%w: secret key '%.200s' is not valid: its halves do not belong together", ErrKey, name)
	}
	return SecretKey{name: name, secret: &secret{key}}, nil
}

// GenerateKey makes a new key.
func GenerateKey(name string) (SecretKey, error) {
	if err := checkKeyName(name); err != nil {
		return SecretKey{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return SecretKey{name: name, secret: &secret{key}}, err
}

// Name is the name of the key.
func (k SecretKey) Name() string { return k.name }

// String is the name, so that no log gets the secret by mistake.
func (k SecretKey) String() string { return k.name + ":<secret>" }

// GoString is String.
func (k SecretKey) GoString() string { return k.String() }

// Text is the inverse of ParseSecretKey, without a newline.
func (k SecretKey) Text() string {
	return k.name + ":" + base64.StdEncoding.EncodeToString(k.secret.key)
}

// Public is the key that checks the signatures of k.
func (k SecretKey) Public() PublicKey {
	p := PublicKey{name: k.name}
	copy(p.key[:], k.secret.key[ed25519.SeedSize:])
	return p
}

// Sign signs a fingerprint.
func (k SecretKey) Sign(fingerprint string) store.Signature {
	return store.Signature(k.name + ":" + base64.StdEncoding.EncodeToString(ed25519.Sign(k.secret.key, []byte(fingerprint))))
}

func parseKey(text string) (name string, data []byte, err error) {
	if len(text) > maxKey {
		return "", nil, fmt.Errorf("more than %d bytes", maxKey)
	}
	name, rest, ok := strings.Cut(text, ":")
	if !ok {
		return "", nil, errors.New("key is corrupt: it is not '<name>:<base64>'")
	}
	if err := checkKeyName(name); err != nil {
		return "", nil, err
	}
	data, err = decode(rest)
	if err != nil || len(data) == 0 {
		return "", nil, fmt.Errorf("key '%.200s' is corrupt: what follows the name is not base64", name)
	}
	return name, data, nil
}

// checkKeyName refuses names that could not be told from what surrounds them.
func checkKeyName(name string) error {
	if name == "" {
		return errors.New("the name of the key is empty")
	}
	for _, c := range name {
		if c <= ' ' || c == ':' || c == 0x7f || c == '\uFFFD' {
			return fmt.Errorf("the name of the key %.100q has a character that cannot be", name)
		}
	}
	return nil
}

// decode reads base64 with or without padding, as Nix does.
func decode(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, base64.CorruptInputError(strings.IndexAny(s, "\r\n"))
	}
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
}
