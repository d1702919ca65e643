package main

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/internal/testenv"
)

// programs are what is run, in a system of which each package is an object of a store.
var programs = map[string]string{
	"python": `python3.13 -c '
import argparse, ast, asyncio, base64, bz2, calendar, collections, concurrent.futures, configparser, contextlib, csv, ctypes
import datetime, decimal, difflib, email.message, fractions, functools, glob, gzip, hashlib, html.parser, http.client, inspect
import ipaddress, itertools, json, logging.config, lzma, mimetypes, multiprocessing, optparse, pathlib, pickle, platform, plistlib
import pprint, queue, random, re, sched, secrets, shelve, shutil, sqlite3, ssl, statistics, string, subprocess, tarfile, tempfile
import textwrap, threading, timeit, tokenize, traceback, typing, unittest.mock, urllib.request, uuid, wsgiref, xml.dom.minidom, zipfile
import sys
db = sqlite3.connect(":memory:")
print(len(sys.modules), hashlib.sha256(json.dumps(sorted(sys.modules)).encode()).hexdigest(), db.execute("select 6*7").fetchone(), decimal.Decimal(2).sqrt())
'`,
	"git": `mkdir -p /tmp/r && cd /tmp/r && git init -q -b main . && for i in 1 2 3; do echo "line $i" >>file; git add file; git commit -q -m "commit $i"; done &&
git log --format='%H %s' && git diff HEAD~2 && git repack -adq && git fsck --strict && git cat-file --batch-check --batch-all-objects`,
	"perl": `perl -MPOSIX=floor -MData::Dumper -MList::Util=sum -MText::Wrap -MTime::Local -MFile::Find -MEncode -MStorable -MDigest::SHA=sha256_hex -e '
$Data::Dumper::Sortkeys = 1; print Dumper({sum => sum(1..10), floor => floor(2.7), hash => sha256_hex(encode("UTF-8", "\x{e4}"))}), join(",", sort keys %INC), "\n"'`,
	"vim": `cd /tmp && printf 'one\ntwo\nthree\n' >text && vim.tiny -u NONE -es -c '%s/o/0/ge' -c 'g/t/m0' -c wq text; cat text`,
	"gcc": `cd /tmp && cat >p.c <<'X'
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int by(const void *a, const void *b) { return strcmp(*(char **)a, *(char **)b); }
int main(void) { char *s[] = {"c", "a", "b"}; qsort(s, 3, sizeof *s, by); printf("%s%s%s %.6f\n", s[0], s[1], s[2], sqrt(2)); }
X
gcc-14 -O2 -Wall -o p p.c -lm && ./p && sha256sum p`,
}

// mergedRoot shows objects of a store directory, each the root of a Debian system, as one in which
// programs run. It is to be written to, and goes with the test's mount namespace.
func mergedRoot(t *testing.T, store string, objects []string) string {
	t.Helper()
	base := testenv.Scratch(t)
	if err := unix.Mount("tmpfs", base, "tmpfs", 0, "size=200m"); err != nil {
		t.Fatal(err)
	}
	root, upper, work := filepath.Join(base, "root"), filepath.Join(base, "upper"), filepath.Join(base, "work")
	for _, dir := range []string{root, work, upper, filepath.Join(upper, "tmp"), filepath.Join(upper, "dev")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "lib", "lib64", "sbin"} {
		if err := os.Symlink("usr/"+dir, filepath.Join(upper, dir)); err != nil {
			t.Fatal(err)
		}
	}
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fs)
	options := [][2]string{{"upperdir", upper}, {"workdir", work}}
	if initial, err := mount.InitialUserNamespace(); err == nil && !initial {
		options = append(options, [2]string{"userxattr", ""})
	}
	for _, o := range objects {
		options = append(options, [2]string{"lowerdir+", filepath.Join(store, o)})
	}
	for _, o := range options {
		if o[1] == "" {
			err = errors.Join(err, unix.FsconfigSetFlag(fs, o[0]))
		} else {
			err = errors.Join(err, unix.FsconfigSetString(fs, o[0], o[1]))
		}
	}
	if err = errors.Join(err, unix.FsconfigCreate(fs)); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, root, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/dev", filepath.Join(root, "dev"), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(base, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return root
}

// inRoot runs a program and gives all that it says.
func inRoot(t *testing.T, root, script string) string {
	t.Helper()
	cmd := exec.Command("/usr/bin/bash", "-c", "umask 022; "+script)
	cmd.Path, cmd.Err = "/usr/bin/bash", nil
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	cmd.Env = []string{
		"PATH=/usr/bin:/usr/sbin", "HOME=/tmp", "LC_ALL=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1", "PYTHONHASHSEED=0", "TERM=dumb",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		"GIT_AUTHOR_DATE=2000-01-01T00:00:00Z", "GIT_COMMITTER_DATE=2000-01-01T00:00:00Z",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%.60s…: %v: %s", script, err, out)
	}
	return string(out)
}

// badServer serves a directory as the internet does: late, slowly, and every now and then not at all, not
// to the end, or something else.
type badServer struct {
	dir    string
	mu     sync.Mutex
	random *rand.Rand
	calm   atomic.Bool
	faults atomic.Int64
}

func (s *badServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	late, how := time.Duration(s.random.IntN(8))*time.Millisecond, s.random.IntN(12)
	s.mu.Unlock()
	time.Sleep(late) // which is what is tested with
	if s.calm.Load() || !strings.Contains(r.URL.Path, "/nar/") {
		how = -1
	}
	switch how {
	case 0:
		s.faults.Add(1)
		http.Error(w, "try again later", http.StatusServiceUnavailable)
		return
	case 1, 2:
		s.faults.Add(1)
		http.ServeFile(&spoiled{ResponseWriter: w, cut: how == 1}, r, filepath.Join(s.dir, filepath.FromSlash(r.URL.Path)))
		return
	}
	http.ServeFile(&slow{w}, r, filepath.Join(s.dir, filepath.FromSlash(r.URL.Path)))
}

// slow writes at some 100 MB a second.
type slow struct{ http.ResponseWriter }

func (s *slow) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(len(p)) * 10 * time.Nanosecond)
	return s.ResponseWriter.Write(p)
}

// spoiled breaks off, or changes a byte.
type spoiled struct {
	http.ResponseWriter
	cut  bool
	sent int
}

func (s *spoiled) Write(p []byte) (int, error) {
	s.sent += len(p)
	if s.cut && s.sent > 1000 {
		panic(http.ErrAbortHandler)
	}
	p = slices.Clone(p)
	p[len(p)/2] ^= 1
	return s.ResponseWriter.Write(p)
}

// Real programs run from a mount over servers with faults, while who serves the mount is killed, and say and
// make what they do in a store that is all here.
func TestProgramsOverHTTP(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	testenv.FUSE(t)
	dir, registration := testenv.Programs(t)
	w := newLazyWorldOf(t, dir, registration)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	bad := &badServer{dir: w.path("from"), random: rand.New(rand.NewPCG(seed, 0))}
	good := &badServer{dir: w.path("from"), random: rand.New(rand.NewPCG(seed, 1))}
	good.calm.Store(true)
	var uris []string
	for i, s := range []*badServer{bad, good} {
		server := httptest.NewServer(s)
		t.Cleanup(server.Close)
		uris = append(uris, fmt.Sprintf("%s?trusted=true&priority=%d", server.URL, i+1))
	}
	at := w.path("mnt")
	p := w.mountFrom(at, []string{"XDG_CACHE_HOME=" + w.path("xdg")}, uris...)
	lazy, plain := mergedRoot(t, at, w.objects), mergedRoot(t, w.corpus, w.objects)
	stop, killed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(killed)
		for range 5 {
			select {
			case <-stop:
				return
			case <-time.After(300 * time.Millisecond): // how often does not matter
			}
			_ = syscall.Kill(w.server(), syscall.SIGKILL) // if it has not been already
		}
	}()
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		if got, want := inRoot(t, lazy, programs[name]), inRoot(t, plain, programs[name]); got != want || want == "" {
			t.Errorf("%s says\n%s\nand should say\n%s", name, got, want)
		}
	}
	close(stop)
	<-killed
	if bad.faults.Load() == 0 {
		t.Error("nothing went wrong")
	}
	bad.calm.Store(true)
	w.same(at, w.object("git-1"), w.object("python3.13-minimal"), w.object("perl-base"))
	// Evicted under those who have it open, it comes again.
	w.run("lazy", "evict", "--cache", w.path("cache"), "--all")
	if got, want := inRoot(t, lazy, programs["vim"]), inRoot(t, plain, programs["vim"]); got != want {
		t.Errorf("after the eviction vim says %q and should say %q", got, want)
	}
	if t.Failed() {
		t.Log(p.Output())
	}
}

// The same of one program, from object storage.
func TestProgramsOverS3(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	testenv.FUSE(t)
	s3 := testenv.S3Server(t)
	s3.Bucket(t, "cache")
	w := newLazyWorld(t, "bash-5.2.15", "perl-base-5.36", "sed-4.9-1")
	if out, err := exec.Command("cp", "-r", w.path("from")+"/.", filepath.Join(s3.Dir, "cache")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	at := w.path("mnt")
	env := []string{"XDG_CACHE_HOME=" + w.path("xdg")}
	for name, value := range s3.Environ() {
		env = append(env, name+"="+value)
	}
	endpoint := strings.TrimPrefix(s3.Endpoint, "http://")
	w.mountFrom(at, env, "s3://cache?"+url.Values{"endpoint": {endpoint}, "scheme": {"http"}, "region": {s3.Region}, "trusted": {"true"}}.Encode())
	out, err := exec.Command(filepath.Join(at, w.object("perl-base-5.36"), "usr/bin/perl"), "-e", `print join(",", map { $_ * 2 } 1 .. 3), "\n"`).CombinedOutput()
	if err != nil || string(out) != "2,4,6\n" {
		t.Errorf("%q, %v", out, err)
	}
	w.same(at, w.objects...)
}
