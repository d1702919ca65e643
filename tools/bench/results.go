package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"time"
)

// results are what is kept from run to run.
type results struct {
	Rows map[string]*result `json:"rows"`
}

// result is what came of a row.
type result struct {
	Stock []sample `json:"stock,omitempty"`
	Ours  []sample `json:"strata,omitempty"`
	Why   string   `json:"why,omitempty"` // why it did not run, or failed
	Where machine  `json:"where"`
}

// machine is where and with what a row ran.
type machine struct {
	Date   time.Time `json:"date"`
	CPU    string    `json:"cpu"`
	Cores  int       `json:"cores"`
	Memory int       `json:"memory"` // GiB
	Kernel string    `json:"kernel"`
	Nix    string    `json:"nix"`
	Strata string    `json:"strata"`
	Go     string    `json:"go"`
	Load   float64   `json:"load"` // average of the last minute, before the row
}

func readResults(file string) (*results, error) {
	r := &results{Rows: map[string]*result{}}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	return r, json.Unmarshal(b, r)
}

// of is what came of a row, if only that it never ran.
func (r *results) of(row row) *result {
	if res := r.Rows[row.name]; res != nil {
		return res
	}
	return &result{Why: "not run yet"}
}

func (r *results) write(file string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	part := file + ".part"
	if err := os.WriteFile(part, append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(part, file)
}

func pick(samples []sample, f func(sample) float64) []float64 {
	var v []float64
	for _, s := range samples {
		v = append(v, f(s))
	}
	return v
}

// ratios are the ratio of the medians, and the median of the ratios of pairs.
func (r *result) ratios(u unit) (ofMedians, ofPairs float64) {
	ofMedians = u.advantage(median(pick(r.Stock, valueOf)), median(pick(r.Ours, valueOf)))
	var pairs []float64
	for i := range min(len(r.Stock), len(r.Ours)) {
		pairs = append(pairs, u.advantage(r.Stock[i].Value, r.Ours[i].Value))
	}
	return ofMedians, median(pairs)
}
