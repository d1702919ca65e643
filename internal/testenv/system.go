package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// System mounts objects of a store directory, each the root of a package of Debian, as one system in
// which programs run, at dir/root. It can be written to, in memory, and dir is an empty directory.
// end takes it down. It needs a mount namespace of the caller's own.
func System(dir, store string, objects []string) (root string, end func() error, err error) {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=300m"); err != nil {
		return "", nil, fmt.Errorf("mount a tmpfs: %w", err)
	}
	unmount := func() error { return unix.Unmount(dir, unix.MNT_DETACH) }
	defer func() {
		if err != nil {
			err = errors.Join(err, unmount())
		}
	}()
	root = filepath.Join(dir, "root")
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range []string{root, work, upper, filepath.Join(upper, "tmp"), filepath.Join(upper, "dev")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return "", nil, err
		}
	}
	for _, d := range []string{"bin", "lib", "lib64", "sbin"} {
		if err := os.Symlink("usr/"+d, filepath.Join(upper, d)); err != nil {
			return "", nil, err
		}
	}
	if err := mountSystem(root, upper, work, store, objects); err != nil {
		return "", nil, fmt.Errorf("mount an overlay: %w", err)
	}
	return root, unmount, unix.Mount("/dev", filepath.Join(root, "dev"), "", unix.MS_BIND|unix.MS_REC, "")
}

// mountSystem gives the kernel the objects one by one, as the options of mount(8) would be too long.
func mountSystem(root, upper, work, store string, objects []string) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	options := [][2]string{{"upperdir", upper}, {"workdir", work}}
	for _, o := range objects {
		options = append(options, [2]string{"lowerdir+", filepath.Join(store, o)})
	}
	if !inInitialUserNS() {
		err = unix.FsconfigSetFlag(fs, "userxattr")
	}
	for _, o := range options {
		err = errors.Join(err, unix.FsconfigSetString(fs, o[0], o[1]))
	}
	if err = errors.Join(err, unix.FsconfigCreate(fs)); err != nil {
		return err
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.MoveMount(fd, "", unix.AT_FDCWD, root, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// A Program is one that the packages of Programs have.
type Program struct {
	Name   string
	Script string // for bash, always with the same output
	// Packages are those that it needs, each with all that they depend on.
	Packages []string
}

// Command prepares the program to run in a system.
func (p *Program) Command(root string) *exec.Cmd {
	// Until the new process has become another program, this one cannot even collect its garbage, and so
	// stands still now and then. If it serves what that program is read from, both would wait for each other.
	cmd := exec.Command("/usr/sbin/chroot", root, "/usr/bin/bash", "-c", "umask 022; "+p.Script)
	cmd.Env = []string{
		"PATH=/usr/bin:/usr/sbin", "HOME=/tmp", "LC_ALL=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1", "PYTHONHASHSEED=0", "TERM=dumb",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		"GIT_AUTHOR_DATE=2000-01-01T00:00:00Z", "GIT_COMMITTER_DATE=2000-01-01T00:00:00Z",
	}
	return cmd
}

// ProgramList are programs of the packages of [Programs].
func ProgramList() []Program {
	return []Program{
		{Name: "python", Packages: []string{"bash", "python3.13-minimal", "libpython3.13-stdlib"}, Script: `python3.13 -c '
import argparse, ast, asyncio, base64, bz2, calendar, collections, concurrent.futures, configparser, contextlib, csv, ctypes
import datetime, decimal, difflib, email.message, fractions, functools, glob, gzip, hashlib, html.parser, http.client, inspect
import ipaddress, itertools, json, logging.config, lzma, mimetypes, multiprocessing, optparse, pathlib, pickle, platform, plistlib
import pprint, queue, random, re, sched, secrets, shelve, shutil, sqlite3, ssl, statistics, string, subprocess, tarfile, tempfile
import textwrap, threading, timeit, tokenize, traceback, typing, unittest.mock, urllib.request, uuid, wsgiref, xml.dom.minidom, zipfile
import sys
db = sqlite3.connect(":memory:")
print(len(sys.modules), hashlib.sha256(json.dumps(sorted(sys.modules)).encode()).hexdigest(), db.execute("select 6*7").fetchone(), decimal.Decimal(2).sqrt())
'`},
		{Name: "git", Packages: []string{"bash", "coreutils", "git"}, Script: `mkdir -p /tmp/r && cd /tmp/r && git init -q -b main . && for i in 1 2 3; do echo "line $i" >>file; git add file; git commit -q -m "commit $i"; done &&
git log --format='%H %s' && git diff HEAD~2 && git repack -adq && git fsck --strict && git cat-file --batch-check --batch-all-objects`},
		{Name: "perl", Packages: []string{"bash", "perl"}, Script: `perl -MPOSIX=floor -MData::Dumper -MList::Util=sum -MText::Wrap -MTime::Local -MFile::Find -MEncode -MStorable -MDigest::SHA=sha256_hex -e '
$Data::Dumper::Sortkeys = 1; print Dumper({sum => sum(1..10), floor => floor(2.7), hash => sha256_hex(encode("UTF-8", "\x{e4}"))}), join(",", sort keys %INC), "\n"'`},
		{Name: "vim", Packages: []string{"bash", "coreutils", "vim-tiny"}, Script: `cd /tmp && printf 'one\ntwo\nthree\n' >text && vim.tiny -u NONE -es -c '%s/o/0/ge' -c 'g/t/m0' -c wq text; cat text`},
		{Name: "gcc", Packages: []string{"bash", "coreutils", "gcc-14", "libc6-dev"}, Script: `cd /tmp && cat >p.c <<'X'
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int by(const void *a, const void *b) { return strcmp(*(char **)a, *(char **)b); }
int main(void) { char *s[] = {"c", "a", "b"}; qsort(s, 3, sizeof *s, by); printf("%s%s%s %.6f\n", s[0], s[1], s[2], sqrt(2)); }
X
gcc-14 -O2 -Wall -o p p.c -lm && ./p && sha256sum p`},
	}
}
