package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/trust"
)

func newKeyCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Make keys that sign store objects",
		Long: `Make keys that sign store objects, in the form that nix.conf wants them in:
the secret one for secret-key-files, the public one for trusted-public-keys.`,
		Example: `  strata key generate cache.example.org-1 > /etc/nix/cache.secret
  strata key public < /etc/nix/cache.secret`,
		Args: noSubcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newKeyGenerateCommand(g), newKeyPublicCommand(g))
	return cmd
}

func newKeyGenerateCommand(g *globals) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "generate NAME",
		Short: "Make a secret key",
		Long: `Make a secret key and print it, or write it to a file that only its owner can
read. By convention its name says whose it is and which one: cache.example.org-1.`,
		Example: "  strata key generate --output /etc/nix/cache.secret cache.example.org-1",
		Args:    exactlyOne,
		RunE:    runner(func(_ context.Context, args []string) error { return generateKey(g, args[0], file) }),
	}
	cmd.Flags().StringVarP(&file, "output", "o", "", "write the key to a new `FILE`, and print the public one")
	return cmd
}

func generateKey(g *globals, name, file string) error {
	key, err := trust.GenerateKey(name)
	if err != nil {
		return &usageError{err}
	}
	if file == "" {
		return g.out.println(key.Text())
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, key.Text()+"\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(file)
		return err
	}
	return g.out.println(key.Public().String())
}

func newKeyPublicCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "public [FILE]",
		Short:   "Print the public key of a secret one",
		Long:    "Print the public key that belongs to the secret one in a file, or on standard input.",
		Example: "  strata key public /etc/nix/cache.secret",
		Args:    usageArgs(cobra.MaximumNArgs(1)),
		RunE:    runner(func(ctx context.Context, args []string) error { return printPublicKey(ctx, g, args) }),
	}
}

// maxKeyFile is more than a file with a key has, in bytes.
const maxKeyFile = 64 << 10

func printPublicKey(ctx context.Context, g *globals, args []string) error {
	if len(args) == 1 {
		key, err := readSecretKey(args[0])
		if err != nil {
			return err
		}
		return g.out.println(key.Public().String())
	}
	text, err := io.ReadAll(io.LimitReader(g.input(ctx), maxKeyFile))
	if err != nil {
		return err
	}
	key, err := trust.ParseSecretKey(string(text))
	if err != nil {
		return err
	}
	return g.out.println(key.Public().String())
}

// readSecretKey reads a file with a secret key.
func readSecretKey(file string) (trust.SecretKey, error) {
	f, err := os.Open(file)
	if err != nil {
		return trust.SecretKey{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return trust.SecretKey{}, err
	}
	key, err := trust.ParseSecretKey(string(text))
	if err != nil {
		return trust.SecretKey{}, fmt.Errorf("'%s': %w", file, err)
	}
	return key, nil
}

// secretKeys reads the files with keys that were named, which are mistakes of
// the command line if they cannot be used.
func secretKeys(files []string) ([]trust.SecretKey, error) {
	var keys []trust.SecretKey
	for _, file := range files {
		key, err := readSecretKey(file)
		if err != nil {
			return nil, &usageError{err}
		}
		keys = append(keys, key)
	}
	return keys, nil
}
