package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/strata-nix/strata/internal/corpus"
)

// databaseRows load databases and print them.
func databaseRows(o options) []row {
	loadDB := func(n int) row {
		return row{
			name: fmt.Sprintf("load-db/%d", n), what: fmt.Sprintf("load-db of %d paths", n), unit: seconds,
			needs: []need{o.paths(n)}, run: loadRow(n), curve: "load-db, by paths", at: n,
		}
	}
	infos := func(n int) row {
		return row{
			name: fmt.Sprintf("path-infos/%d", n), what: fmt.Sprintf("all path infos of %d as JSON", n), unit: seconds,
			needs: []need{o.paths(n)}, run: infosRow(n), curve: "all path infos as JSON, by paths", at: n,
		}
	}
	rows := []row{loadDB(tenK), loadDB(hundredK), loadDB(million), infos(tenK), infos(hundredK), infos(million)}
	rows[1].target, rows[1].memory = 8, 200
	rows[2].target, rows[2].memory, rows[2].long = 10, 200, true
	rows[5].target, rows[5].memory, rows[5].long = 10, 200, true
	rows[0].pairs, rows[3].pairs, rows[4].pairs = 3, 3, 3
	return append(rows,
		row{name: "closure/daemon", what: "closure of the largest package by command, through a daemon", unit: seconds, target: 5,
			needs: []need{o.paths(million)}, run: closureRow(true)},
		row{name: "closure/direct", what: "the same without a daemon", unit: seconds,
			needs: []need{o.paths(million)}, run: closureRow(false)})
}

// loadRow loads into a new store on disk.
func loadRow(n int) func(context.Context, *world, side) (sample, error) {
	return func(ctx context.Context, w *world, s side) (sample, error) {
		root := filepath.Join(w.disk, "load-db")
		if err := os.RemoveAll(root); err != nil {
			return sample{}, err
		}
		defer os.RemoveAll(root)
		got, err := command{
			args:  s.choose([]string{"nix-store", "--store", root, "--load-db"}, []string{"--store", root, "load-db"}),
			stdin: filepath.Join(w.input(w.o.paths(n)), corpus.RegistrationFile),
		}.run(ctx, w)
		if err != nil || !w.o.Smoke {
			return got, err
		}
		// Stock Nix says what is in the database.
		dump, err := command{args: []string{"nix-store", "--store", root, "--dump-db"}, answer: sortedLines}.run(ctx, w)
		got.answer = dump.answer
		return got, err
	}
}

func infosRow(n int) func(context.Context, *world, side) (sample, error) {
	return func(ctx context.Context, w *world, s side) (sample, error) {
		root, err := w.database(ctx, w.o.paths(n))
		if err != nil {
			return sample{}, err
		}
		return command{
			args: s.choose(
				[]string{"nix", "path-info", "--store", root, "--all", "--json", "--json-format", "1"},
				[]string{"--store", root, "info", "--all", "--json"}),
			answer: sameJSON,
		}.run(ctx, w)
	}
}

// closureRow asks for the closure with --recursive. What stock Nix prints is not
// in order of references as ours is.
func closureRow(daemon bool) func(context.Context, *world, side) (sample, error) {
	return func(ctx context.Context, w *world, s side) (sample, error) {
		n := w.o.paths(million)
		path, err := w.root(n)
		if err != nil {
			return sample{}, err
		}
		store, err := w.database(ctx, n)
		if err != nil {
			return sample{}, err
		}
		if daemon {
			d, err := w.server(ctx, s, n)
			if err != nil {
				return sample{}, err
			}
			store = "unix://" + d.socket
		}
		return command{
			args:   s.choose([]string{"nix", "path-info", "--store", store, "-r", path}, []string{"--store", store, "closure", path}),
			answer: sortedLines,
		}.run(ctx, w)
	}
}

// sameJSON is the digest of an object whose members may come in any order.
func sameJSON(b []byte) (string, error) {
	var all map[string]any
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&all); err != nil {
		return "", err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return "", errors.New("more than one value")
	}
	canonical, err := json.Marshal(all)
	return fmt.Sprintf("%d members, %s", len(all), digest(canonical)), err
}
