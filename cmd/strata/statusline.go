package main

import (
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/storepath"
)

// statusLine is what a terminal shows of the activities that are under way: how
// many, how much, how fast, how long, and what was begun last.
//
//	[######------] 3/10 paths, 1.2/5.0 GiB, 30.5 MiB/s, 2m10s left: hello-2.12
type statusLine struct {
	tally
	meter
}

const barWidth = 12

// text is the line.
func (s *statusLine) text(now time.Time) string {
	var parts []string
	bar := ""
	if what, c := s.objects(); c.expected > 0 {
		parts = append(parts, strings.TrimSpace(fmt.Sprintf("%d/%d %s", c.done, c.expected, what)))
	}
	if c := s.bytes(); c.expected > 0 || c.done > 0 {
		s.see(now, c.done)
		bar = drawBar(c)
		parts = append(parts, sizeOf(c))
		if r := s.rate(); r > 0 {
			parts = append(parts, size(uint64(r))+"/s")
		}
		if left, ok := s.left(c.expected - min(c.done, c.expected)); ok && c.expected > c.done {
			parts = append(parts, shortDuration(left)+" left")
		}
	}
	line := bar + strings.Join(parts, ", ")
	if last := s.last(); last != "" && line != "" {
		line += ": " + last
	} else {
		line += last
	}
	return line
}

// objects is the count of whole things, and what they are.
func (s *statusLine) objects() (what string, c amount) {
	if c = s.of(activity.CopyPaths); c.expected > 0 {
		return "paths", c
	}
	for _, a := range s.inOrder() {
		if a.expected > 0 && !countsBytes(a.Type) {
			return "", s.of(a.Type)
		}
	}
	return "", amount{}
}

// bytes is how much of contents has come, or, where nothing is copied, of files.
func (s *statusLine) bytes() amount {
	for _, t := range []activity.Type{activity.CopyPath, activity.HashContents} {
		if c := s.of(t); c.expected > 0 || c.done > 0 {
			return c
		}
	}
	return s.of(activity.FileTransfer)
}

func countsBytes(t activity.Type) bool {
	return t == activity.CopyPath || t == activity.FileTransfer || t == activity.HashContents
}

// last is what was begun last and has a name.
func (s *statusLine) last() string {
	text := ""
	for _, a := range s.inOrder() {
		if name := nameOf(a.Event); name != "" {
			text = name
		}
	}
	return printable(text)
}

// nameOf is what an activity is about, in few words.
func nameOf(e activity.Event) string {
	if e.Type == activity.CopyPath && len(e.Fields) > 0 {
		if p, err := storepath.ParseBase(path.Base(e.Fields[0].Text)); err == nil {
			return p.Name()
		}
	}
	line, _, _ := strings.Cut(e.Text, "\n")
	return line
}

// drawBar is empty while nobody knows how much there will be.
func drawBar(c amount) string {
	if c.expected == 0 {
		return ""
	}
	full := int(barWidth * min(float64(c.done)/float64(c.expected), 1))
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", barWidth-full) + "] "
}

// sizeOf spells both numbers in the unit of the larger one.
func sizeOf(c amount) string {
	if c.expected == 0 {
		return size(c.done)
	}
	all := size(c.expected)
	_, unit, _ := strings.Cut(all, " ")
	if done, ok := strings.CutSuffix(size(c.done), " "+unit); ok {
		return done + "/" + all
	}
	return size(c.done) + "/" + all
}
