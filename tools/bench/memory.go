package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tree are a process and all that descend from it.
func tree(root int) []int {
	kids := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if f := statFields(pid); len(f) > 1 {
			parent, _ := strconv.Atoi(f[1])
			kids[parent] = append(kids[parent], pid)
		}
	}
	list := []int{root}
	for i := 0; i < len(list); i++ {
		list = append(list, kids[list[i]]...)
	}
	return list
}

// statFields are those of /proc/PID/stat from the third, the state, on.
func statFields(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil // it has ended
	}
	s := string(b)
	return strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
}

// pss is the proportional set size of a process and its descendants, in MiB.
func pss(root int) float64 {
	kib := 0.0
	for _, pid := range tree(root) {
		f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue
		}
		for s := bufio.NewScanner(f); s.Scan(); {
			if rest, ok := strings.CutPrefix(s.Text(), "Pss:"); ok {
				v, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
				kib += v
			}
		}
		f.Close()
	}
	return kib / 1024
}

// watchPSS gives the largest PSS until ctx ends, looking now and then.
func watchPSS(ctx context.Context, root int) float64 {
	most := 0.0
	for {
		most = max(most, pss(root))
		select {
		case <-ctx.Done():
			return most
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// cpuSeconds is the processor time of a process, its descendants, and those of
// them that have ended and were waited for.
func cpuSeconds(root int) float64 {
	const ticks = 100 // a second, on all that Linux runs on
	sum := 0.0
	for _, pid := range tree(root) {
		f := statFields(pid)
		if len(f) < 15 {
			continue
		}
		for _, v := range f[11:15] { // utime stime cutime cstime
			n, _ := strconv.ParseFloat(v, 64)
			sum += n
		}
	}
	return sum / ticks
}
