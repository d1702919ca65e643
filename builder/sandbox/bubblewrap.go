package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// What the builder is called inside, as upstream: the first user and group that
// people have, or root if a range of ids belongs to it.
const (
	insideUID = 1000
	insideGID = 100
)

// bwrapPlaces are where the program is looked for besides PATH, which a daemon
// may have an odd one of.
var bwrapPlaces = []string{"/usr/bin/bwrap", "/run/wrappers/bin/bwrap", "/run/current-system/sw/bin/bwrap"}

// findBwrap finds bubblewrap.
func findBwrap() (string, error) {
	path, err := exec.LookPath("bwrap")
	if err == nil {
		return path, nil
	}
	for _, p := range bwrapPlaces {
		if unix.Access(p, unix.X_OK) == nil {
			return p, nil
		}
	}
	return "", err
}

// Files that bwrap is started with, behind those that entry gets.
const (
	bwrapInfo   = entrySelf + 1 + iota // it writes the number of its child
	bwrapBlock                         // it waits for the map of user ids
	bwrapLoader                        // and further: see loader
)

// bwrapArgs is the command line. Mounts are in the root already.
func (s *keeperSpec) bwrapArgs(cover string, entry []string) []string {
	args := []string{
		s.Bwrap,
		"--unshare-user", "--unshare-pid", "--as-pid-1", "--unshare-ipc", "--unshare-uts", "--hostname", "localhost",
		"--dev-bind", cover, "/", "--proc", "/proc", "--chdir", "/",
		"--info-fd", strconv.Itoa(bwrapInfo),
	}
	if !s.Isolation.Network {
		args = append(args, "--unshare-net")
	}
	if s.HasCgroup {
		args = append(args, "--unshare-cgroup")
	}
	if s.Count > 1 {
		args = append(args, "--uid", "0", "--gid", "0", "--cap-add", "ALL", "--userns-block-fd", strconv.Itoa(bwrapBlock))
	} else {
		args = append(args, "--uid", strconv.Itoa(insideUID), "--gid", strconv.Itoa(insideGID), "--cap-drop", "ALL")
	}
	return append(append(args, "--"), entry...)
}

// bwrapChild finds the number of the process that becomes the builder in what bwrap
// says of it.
func bwrapChild(info []byte) (int, error) {
	var v struct {
		Child int `json:"child-pid"`
	}
	if err := json.Unmarshal(info, &v); err != nil {
		return 0, err
	}
	if v.Child <= 1 {
		return 0, fmt.Errorf("its child is number %d", v.Child)
	}
	return v.Child, nil
}

// mapRange gives the user namespace of a process its range of ids, which bwrap
// cannot do.
func (s *keeperSpec) mapRange(pid int) error {
	proc := "/proc/" + strconv.Itoa(pid)
	for file, first := range map[string]uint32{"/uid_map": s.UID, "/gid_map": s.GID} {
		if err := os.WriteFile(proc+file, fmt.Appendf(nil, "0 %d %d", first, s.Count), 0); err != nil {
			return err
		}
	}
	return nil
}

// complaint is what bwrap said when it failed.
func complaint(said []byte) error {
	const most = 4 << 10 // of a pipe that holds 64 KiB
	s := strings.TrimSpace(strings.ToValidUTF8(string(said[:min(len(said), most)]), "?"))
	if s == "" {
		s = "it ended without a word"
	}
	return errors.New(strings.TrimPrefix(s, "bwrap: "))
}

// credential is who bwrap or the builder runs as; nil: who the keeper is.
func (s *keeperSpec) credential() *syscall.Credential {
	if !s.HasUser {
		return nil
	}
	return &syscall.Credential{Uid: s.UID, Gid: s.GID, Groups: s.Groups}
}
