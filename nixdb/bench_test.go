package nixdb_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/storepath"
)

// benchDB is a loaded database and all of its paths in a random order.
func benchDB(b *testing.B) (*nixdb.DB, []storepath.Path) {
	db := open(b, b.TempDir(), nixdb.Options{})
	var all []storepath.Path
	_, err := db.Load(b.Context(), func(yield func(nixdb.Registration, error) bool) {
		for r, err := range benchInput(b) {
			if err != nil {
				b.Fatal(err)
			}
			all = append(all, r.Info.Path)
			if !yield(r, nil) {
				return
			}
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := db.Release(); err != nil { // so that nothing is read from the log
		b.Fatal(err)
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	b.ReportAllocs()
	b.ResetTimer()
	return db, all
}

// batches runs f on sets of n paths.
func batches(b *testing.B, all []storepath.Path, n int, f func([]storepath.Path) error) {
	at := 0
	defer cpu(b)()
	for b.Loop() {
		if at+n > len(all) {
			at = 0
		}
		if err := f(all[at : at+n]); err != nil {
			b.Fatal(err)
		}
		at += n
	}
	b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "paths/s")
}

func BenchmarkValidPaths(b *testing.B) {
	db, all := benchDB(b)
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			batches(b, all, n, func(set []storepath.Path) error {
				_, err := db.ValidPaths(b.Context(), set)
				return err
			})
		})
	}
}

func BenchmarkPathInfos(b *testing.B) {
	db, all := benchDB(b)
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			batches(b, all, n, func(set []storepath.Path) error {
				_, err := db.PathInfos(b.Context(), set)
				return err
			})
		})
	}
}

func BenchmarkReferrers(b *testing.B) {
	db, all := benchDB(b)
	batches(b, all, 1, func(set []storepath.Path) error {
		_, err := db.Referrers(b.Context(), set)
		return err
	})
}

func BenchmarkClosure(b *testing.B) {
	db, all := benchDB(b)
	n := 0
	batches(b, all, 1, func(set []storepath.Path) error {
		closure, err := db.Closure(b.Context(), set, nixdb.ClosureOptions{})
		n += len(closure)
		return err
	})
	b.ReportMetric(float64(n)/float64(b.N), "closure")
}

func BenchmarkAllPathInfos(b *testing.B) {
	db, all := benchDB(b)
	defer cpu(b)()
	for b.Loop() {
		for _, err := range db.AllPathInfos(b.Context()) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.N*len(all))/b.Elapsed().Seconds(), "paths/s")
}

func BenchmarkGraph(b *testing.B) {
	db, all := benchDB(b)
	defer cpu(b)()
	for b.Loop() {
		if _, err := db.Graph(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*len(all))/b.Elapsed().Seconds(), "paths/s")
}

func BenchmarkRegister(b *testing.B) {
	db, _ := benchDB(b)
	i := 0
	defer cpu(b)()
	for b.Loop() {
		if err := db.Register(b.Context(), regs(info(fmt.Sprintf("new-%d", i)))); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

func BenchmarkLoad(b *testing.B) {
	defer cpu(b)()
	for b.Loop() {
		db := open(b, b.TempDir(), nixdb.Options{})
		n, err := db.Load(b.Context(), benchInput(b))
		if err != nil {
			b.Fatal(err)
		}
		if err := db.Release(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(n), "paths")
	}
	b.ReportMetric(peakMemory(b), "peak-MiB")
}

// peakMemory is the most that this process ever had in memory, in MiB.
func peakMemory(b *testing.B) float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	var kib float64
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			_, _ = fmt.Sscan(rest, &kib)
		}
	}
	return kib / 1024
}

// cpu reports processor time, which means something on a busy machine too.
func cpu(b *testing.B) (report func()) {
	used := func() time.Duration {
		var r unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
			b.Fatal(err)
		}
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64((used()-before).Nanoseconds())/float64(b.N), "cpu-ns/op") }
}
