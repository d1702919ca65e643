package main

import (
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
)

// rootOrigin is what makes a path a gc root, for people and in JSON.
type rootOrigin struct {
	Kind string `json:"kind"`           // link, process, temporary or other
	Path string `json:"path,omitempty"` // of a link
	PID  int    `json:"pid,omitempty"`
	Name string `json:"name,omitempty"` // of the process, if it can be told
	Use  string `json:"use,omitempty"`  // what the process does with it
	Text string `json:"text,omitempty"` // of anything else
}

// uses are the files of /proc that tell what a process uses, and how that is called.
var uses = map[string]string{
	"exe": "program", "cwd": "working directory", "root": "root directory", "fd": "open file",
	"maps": "mapped file", "environ": "environment", "mountinfo": "mount",
}

// originOf reads what a store says where a root comes from.
func originOf(link string) rootOrigin {
	if rest, ok := strings.CutPrefix(link, "/proc/"); ok {
		pid, file, _ := strings.Cut(rest, "/")
		file, _, _ = strings.Cut(file, "/")
		if n, err := strconv.Atoi(pid); err == nil && uses[file] != "" {
			return rootOrigin{Kind: "process", PID: n, Name: processName(n), Use: uses[file]}
		}
	}
	if rest, ok := strings.CutPrefix(link, "{temp:"); ok {
		if n, err := strconv.Atoi(strings.TrimSuffix(rest, "}")); err == nil {
			return rootOrigin{Kind: "temporary", PID: n, Name: processName(n)}
		}
	}
	if path.IsAbs(link) {
		return rootOrigin{Kind: "link", Path: link}
	}
	return rootOrigin{Kind: "other", Text: link}
}

func (o rootOrigin) String() string {
	who := fmt.Sprintf("process %d", o.PID)
	if o.Name != "" {
		who += " (" + o.Name + ")"
	}
	switch o.Kind {
	case "link":
		return o.Path
	case "process":
		return who + ": " + o.Use
	case "temporary":
		return who + ": temporary root"
	}
	return o.Text
}

// processName is how a process calls itself, "" if it cannot be told.
func processName(pid int) string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(name), "\n")
}
