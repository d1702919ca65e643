package sandbox

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// call is what a filter sees of a system call: struct seccomp_data.
type call struct {
	nr, arch uint32
	args     [6]uint64
}

// word is what the kernel loads for an offset.
func (c call) word(offset uint32) uint32 {
	switch {
	case offset == dataNr:
		return c.nr
	case offset == dataArch:
		return c.arch
	}
	arg := c.args[(offset-dataArgs)/8]
	return uint32(arg >> (8 * ((offset - dataArgs) % 8)))
}

// interpret runs a filter as the kernel would.
func interpret(prog []unix.SockFilter, c call) uint32 {
	var a uint32
	for pc := 0; ; pc++ {
		switch in := prog[pc]; in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = c.word(in.K)
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= in.K
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			pc += jump(in, a == in.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			pc += jump(in, a&in.K != 0)
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		default:
			panic(fmt.Sprintf("instruction %+v", in))
		}
	}
}

func jump(in unix.SockFilter, yes bool) int {
	if yes {
		return int(in.Jt)
	}
	return int(in.Jf)
}

func TestFilter(t *testing.T) {
	const (
		eperm   = retErrno | uint32(unix.EPERM)
		enotsup = retErrno | uint32(unix.ENOTSUP)
		x86     = unix.AUDIT_ARCH_X86_64
		i386    = unix.AUDIT_ARCH_I386
		arm64   = unix.AUDIT_ARCH_AARCH64
		arm     = unix.AUDIT_ARCH_ARM
		riscv   = unix.AUDIT_ARCH_RISCV64
	)
	at := ^uint64(0) - 99 // AT_FDCWD
	for _, test := range []struct {
		name    string
		machine string
		call    call
		want    uint32
	}{
		{"chmod 755", "amd64", call{90, x86, [6]uint64{1, 0o755}}, retAllow},
		{"chmod 1755", "amd64", call{90, x86, [6]uint64{1, 0o1755}}, retAllow},
		{"chmod 4755", "amd64", call{90, x86, [6]uint64{1, 0o4755}}, eperm},
		{"chmod 2755", "amd64", call{90, x86, [6]uint64{1, 0o2755}}, eperm},
		{"chmod 6755, more bits", "amd64", call{90, x86, [6]uint64{1, 1<<63 | 0o6755}}, eperm},
		{"chmod, bits where they mean nothing", "amd64", call{90, x86, [6]uint64{1, 0o4755 << 32}}, retAllow},
		{"chmod, setuid as its path", "amd64", call{90, x86, [6]uint64{0o4000, 0o755}}, retAllow},
		{"fchmodat 4755", "amd64", call{268, x86, [6]uint64{at, 1, 0o4755}}, eperm},
		{"fchmodat2 4755", "amd64", call{452, x86, [6]uint64{at, 1, 0o4755}}, eperm},
		{"open with O_CREAT 4755", "amd64", call{2, x86, [6]uint64{1, unix.O_CREAT, 0o4755}}, eperm},
		{"open with O_CREAT 755", "amd64", call{2, x86, [6]uint64{1, unix.O_CREAT, 0o755}}, retAllow},
		{"open without O_CREAT, anything as mode", "amd64", call{2, x86, [6]uint64{1, unix.O_DIRECTORY, 0o7777}}, retAllow},
		{"openat with O_TMPFILE 2755", "amd64", call{257, x86, [6]uint64{at, 1, unix.O_TMPFILE, 0o2755}}, eperm},
		{"creat 4755", "amd64", call{85, x86, [6]uint64{1, 0o4755}}, eperm},
		{"mknodat 4755", "amd64", call{259, x86, [6]uint64{at, 1, 0o104755}}, eperm},
		{"setxattr", "amd64", call{188, x86, [6]uint64{}}, enotsup},
		{"fgetxattr", "amd64", call{193, x86, [6]uint64{}}, enotsup},
		{"listxattr", "amd64", call{194, x86, [6]uint64{}}, retAllow},
		{"setxattrat", "amd64", call{463, x86, [6]uint64{}}, enotsup},
		{"write", "amd64", call{1, x86, [6]uint64{1, 0o6000, 0o6000, 0o6000}}, retAllow},
		{"x32 chmod 4755", "amd64", call{x32Bit | 90, x86, [6]uint64{1, 0o4755}}, eperm},
		{"x32 setxattr", "amd64", call{x32Bit | 188, x86, [6]uint64{}}, enotsup},
		{"i386 chmod 4755", "amd64", call{15, i386, [6]uint64{1, 0o4755}}, eperm},
		{"i386 chmod 755", "amd64", call{15, i386, [6]uint64{1, 0o755}}, retAllow},
		{"i386 number of another's chmod", "amd64", call{90, i386, [6]uint64{1, 0o4755}}, retAllow},
		{"i386 fsetxattr", "amd64", call{228, i386, [6]uint64{}}, enotsup},
		{"i386 openat 4755", "amd64", call{295, i386, [6]uint64{at, 1, unix.O_CREAT, 0o4755}}, eperm},
		{"a call of another machine", "amd64", call{1, arm64, [6]uint64{}}, retKill},
		{"fchmodat 4755", "arm64", call{53, arm64, [6]uint64{at, 1, 0o4755}}, eperm},
		{"setxattr", "arm64", call{5, arm64, [6]uint64{}}, enotsup},
		{"arm chmod 2755", "arm64", call{15, arm, [6]uint64{1, 0o2755}}, eperm},
		{"arm fchmodat 2755", "arm64", call{333, arm, [6]uint64{at, 1, 0o2755}}, eperm},
		{"fchmodat 4755", "riscv64", call{53, riscv, [6]uint64{at, 1, 0o4755}}, eperm},
	} {
		if got := interpret(assemble(filtered[test.machine]), test.call); got != test.want {
			t.Errorf("%s: %s: %#x, want %#x", test.machine, test.name, got, test.want)
		}
	}
}

// The kernel takes programs of at most 4096 instructions, and conditional jumps of 255.
func TestFilterFits(t *testing.T) {
	for machine, abis := range filtered {
		prog := assemble(abis)
		if len(prog) > 4096 {
			t.Errorf("%s: %d instructions", machine, len(prog))
		}
		for _, a := range abis {
			for _, c := range a.actions {
				if n := len(c.block()); n > 255 {
					t.Errorf("%s: a jump over %d instructions", machine, n)
				}
			}
		}
	}
}
