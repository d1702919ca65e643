package cacheserver

import (
	"bytes"
	"iter"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// expositionType is the media type of Prometheus' text format.
const expositionType = "text/plain; version=0.0.4; charset=utf-8"

// Types of families.
const (
	counter = "counter"
	gauge   = "gauge"
)

// exposition is a page in Prometheus' text format. It is written by hand because
// Prometheus' own client costs every start of the program a millisecond, whatever
// it is started for.
// Source: "Exposition formats" in Prometheus' documentation, version 0.0.4.
type exposition struct {
	bytes.Buffer
	name string // of the family that is being written
}

// family begins one. help has no backslash and no line break.
func (x *exposition) family(name, kind, help string) {
	x.name = name
	x.WriteString("# HELP " + name + " " + help + "\n# TYPE " + name + " " + kind + "\n")
}

// labelValue escapes what a value must not have as it is.
var labelValue = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

// sample is a line of the family. labels are names and values in turn.
func (x *exposition) sample(suffix string, value float64, labels ...string) {
	x.WriteString(x.name + suffix)
	for i := 0; i+1 < len(labels); i += 2 {
		x.WriteString([]string{"{", ","}[min(i, 1)] + labels[i] + `="` + labelValue.Replace(labels[i+1]) + `"`)
	}
	if len(labels) > 0 {
		x.WriteByte('}')
	}
	x.WriteString(" " + number(value) + "\n")
}

// single is a family of one sample without labels.
func (x *exposition) single(name, kind, help string, value float64) {
	x.family(name, kind, help)
	x.sample("", value)
}

// process tells of the process, by the names that Prometheus' clients agree on. What
// cannot be told is left out.
func (x *exposition) process() {
	x.single("go_goroutines", gauge, "Goroutines that there are.", float64(runtime.NumGoroutine()))
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	x.single("go_memstats_heap_alloc_bytes", gauge, "Bytes of the heap that are in use.", float64(mem.HeapAlloc))
	x.single("go_memstats_sys_bytes", gauge, "Bytes that Go's runtime has from the system.", float64(mem.Sys))
	var used unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &used) == nil {
		x.single("process_cpu_seconds_total", counter, "Processor time of this process.",
			float64(used.Utime.Nano()+used.Stime.Nano())/1e9)
	}
	if size, resident, ok := memory(); ok {
		x.single("process_virtual_memory_bytes", gauge, "Addresses that this process has.", size)
		x.single("process_resident_memory_bytes", gauge, "Memory that this process has.", resident)
	}
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		x.single("process_open_fds", gauge, "Descriptors that are open.", float64(len(open)-1)) // one for looking
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		x.single("process_max_fds", gauge, "Descriptors that may be open.", float64(limit.Cur))
	}
}

// memory reads the first two numbers of /proc/self/statm, see proc_pid_statm(5).
func memory() (size, resident float64, ok bool) {
	b, err := os.ReadFile("/proc/self/statm")
	fields := strings.Fields(string(b))
	if err != nil || len(fields) < 2 {
		return 0, 0, false
	}
	all, err := strconv.ParseFloat(fields[0], 64)
	if err != nil {
		return 0, 0, false
	}
	in, err := strconv.ParseFloat(fields[1], 64)
	page := float64(os.Getpagesize())
	return all * page, in * page, err == nil
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// sorted goes through a map in an order that stays.
func sorted[K comparable, V any](m map[K]V, compare func(a, b K) int) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, k := range slices.SortedFunc(maps.Keys(m), compare) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}
