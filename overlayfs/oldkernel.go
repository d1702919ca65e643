package overlayfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
)

// errOldKernel says that the new mount interface is missing or cannot express
// this mount, and that mount(2) may.
var errOldKernel = errors.New("not expressible in the new mount interface of this kernel")

// quoteBackslash writes a path for upperdir and workdir, where a backslash
// quotes the next byte.
func quoteBackslash(path string) string { return strings.ReplaceAll(path, `\`, `\\`) }

// joined is the value of lowerdir for all lowers.
func (ls *layers) joined() string {
	quoted := make([]string, len(ls.lowers))
	for i, l := range ls.lowers {
		quoted[i] = quoteLower(l.name())
	}
	return strings.Join(quoted, ":")
}

// oldOptions is the option string for mount(2), where commas are quoted too.
func (ls *layers) oldOptions(o Options, userXattr bool) string {
	comma := strings.NewReplacer(`,`, `\,`)
	opts := []string{"lowerdir=" + comma.Replace(ls.joined())}
	if ls.upper != nil {
		opts = append(opts,
			"upperdir="+comma.Replace(quoteBackslash(ls.upper.name())),
			"workdir="+comma.Replace(quoteBackslash(ls.work.name())))
	}
	return strings.Join(append(opts, o.parameters(userXattr)...), ",")
}

// mountOldWay mounts with mount(2), whose options share one memory page. There
// is no moment at which the mount exists and is not visible, so the record is
// handed out right after.
func (ls *layers) mountOldWay(ctx context.Context, o Options, userXattr bool) (*OverlayMount, error) {
	opts := ls.oldOptions(o, userXattr)
	if len(opts) >= os.Getpagesize() {
		return nil, &LayerError{Role: "layers", Err: ErrPathTooLong,
			Detail: fmt.Sprintf("%d bytes of options, mount(2) takes %d", len(opts), os.Getpagesize()-1)}
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if o.ReadOnly || ls.upper == nil {
		flags |= unix.MS_RDONLY
	}
	if err := unix.Mount(Type, ls.target.real, Type, flags, opts); err != nil {
		return nil, ls.explain(&ConfigError{FSType: Type, Step: "create", Err: err})
	}
	m := &OverlayMount{Warnings: o.advice()}
	id, err := mount.Identify(ls.target.real)
	if err == nil {
		m.Record, err = ls.record(id)
	}
	if err == nil && o.BeforeAttach != nil {
		err = o.BeforeAttach(m.Record)
	}
	if err != nil {
		return nil, errors.Join(err, mount.UnmountTop(context.WithoutCancel(ctx), ls.target.real, true))
	}
	return m, nil
}
