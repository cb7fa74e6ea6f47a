package crashtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// strace counts system calls for each thread apart, and a Go program's calls
// wander between its threads. This tracer counts those of the program, so that
// "the fourth fsync" is the same one in every run; it can let a call happen and
// report it failed; and it knows the files, so that the program's output and
// the runtime's own calls are left alone.

// event is a system call that changes a file of the world, or reads one.
type event struct {
	name string
	path string // of the file, or the old name
	to   string // the new name
	// noReplace: the new name must not be there
	noReplace bool
}

func (e event) String() string { return strings.TrimSpace(e.name + " " + e.path + " " + e.to) }

// fate is what befalls an event.
type fate struct {
	errno syscall.Errno // it fails
	done  bool          // but it happens all the same
	kill  bool          // the program is killed, before it or, with done, after it
}

func (f fate) String() string {
	s := fmt.Sprintf("error %q", f.errno.Error())
	if f.kill {
		s = "kill"
	}
	if f.done {
		return s + " after it was done"
	}
	return s
}

// files describes the system calls that are events: where their file
// descriptor, folder and path stand among the arguments, -1 for nowhere.
var files = map[uint64]struct {
	name            string
	fd, dir, path   int
	toDir, to, flag int
}{
	unix.SYS_WRITE:     {name: "write", fd: 0, dir: -1, path: -1, toDir: -1, to: -1, flag: -1},
	unix.SYS_PWRITE64:  {name: "write", fd: 0, dir: -1, path: -1, toDir: -1, to: -1, flag: -1},
	unix.SYS_READ:      {name: "read", fd: 0, dir: -1, path: -1, toDir: -1, to: -1, flag: -1},
	unix.SYS_PREAD64:   {name: "read", fd: 0, dir: -1, path: -1, toDir: -1, to: -1, flag: -1},
	unix.SYS_FSYNC:     {name: "fsync", fd: 0, dir: -1, path: -1, toDir: -1, to: -1, flag: -1},
	unix.SYS_FTRUNCATE: {name: "ftruncate", fd: 0, dir: -1, path: -1, toDir: -1, to: -1, flag: -1},
	unix.SYS_FCHMOD:    {name: "chmod", fd: 0, dir: -1, path: -1, toDir: -1, to: -1, flag: -1},
	unix.SYS_FCHMODAT:  {name: "chmod", fd: -1, dir: 0, path: 1, toDir: -1, to: -1, flag: -1},
	unix.SYS_MKDIRAT:   {name: "mkdir", fd: -1, dir: 0, path: 1, toDir: -1, to: -1, flag: -1},
	unix.SYS_UNLINKAT:  {name: "unlink", fd: -1, dir: 0, path: 1, toDir: -1, to: -1, flag: -1},
	unix.SYS_OPENAT:    {name: "create", fd: -1, dir: 0, path: 1, toDir: -1, to: -1, flag: 2},
	unix.SYS_RENAMEAT:  {name: "rename", fd: -1, dir: 0, path: 1, toDir: 2, to: 3, flag: -1},
	unix.SYS_RENAMEAT2: {name: "rename", fd: -1, dir: 0, path: 1, toDir: 2, to: 3, flag: -1},
	unix.SYS_LINKAT:    {name: "link", fd: -1, dir: 0, path: 1, toDir: 2, to: 3, flag: -1},
}

// tracer follows one run of the program.
type tracer struct {
	pid    int
	dir    string // events are about files in it
	decide func(event) fate
	events []event
	calls  map[int]*call // what each thread is in
	killed bool
}

type call struct {
	isFile bool
	event  event
	fate   fate
}

// trace runs the program. Decide hears of each event before it happens, with
// those that went before it in the order of their beginnings.
func (w *world) trace(decide func(event) fate, args ...string) (result, []event) {
	w.t.Helper()
	out, err := os.CreateTemp(w.dir, "out-*")
	if err != nil {
		w.t.Fatal(err)
	}
	errOut, err := os.CreateTemp(w.dir, "err-*")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range []*os.File{out, errOut} {
		defer os.Remove(f.Name())
		defer f.Close()
	}
	// The thread that starts the program is the only one that may trace it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := w.command(args...)
	cmd.Stdout, cmd.Stderr = out, errOut
	cmd.SysProcAttr.Ptrace = true
	// In a group of its own: this thread may have children of other tests.
	cmd.SysProcAttr.Setpgid = true
	start := time.Now()
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	tr := &tracer{pid: cmd.Process.Pid, dir: w.dir, decide: decide, calls: map[int]*call{}}
	var late atomic.Bool
	watchdog := time.AfterFunc(hung, func() { late.Store(true); syscall.Kill(tr.pid, syscall.SIGKILL) })
	st, err := tr.follow()
	watchdog.Stop()
	cmd.Process.Release()
	if err != nil {
		syscall.Kill(tr.pid, syscall.SIGKILL)
		w.t.Fatalf("tracing %v: %v", args, err)
	}
	if late.Load() {
		w.t.Fatalf("%v hangs", args)
	}
	r := result{took: time.Since(start), code: -1}
	if st.Exited() {
		r.code = st.ExitStatus()
	}
	o, _ := os.ReadFile(out.Name())
	e, _ := os.ReadFile(errOut.Name())
	r.out, r.err = string(o), string(e)
	return r, tr.events
}

const (
	anyThread  = unix.WALL | unix.WNOTHREAD // traced by this thread
	traceFlags = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
)

func (tr *tracer) follow() (st syscall.WaitStatus, err error) {
	if _, err := syscall.Wait4(tr.pid, &st, unix.WALL, nil); err != nil {
		return st, err
	}
	if err := syscall.PtraceSetOptions(tr.pid, traceFlags); err != nil {
		return st, err
	}
	tr.calls[tr.pid] = &call{}
	if err := syscall.PtraceSyscall(tr.pid, 0); err != nil {
		return st, err
	}
	for {
		tid, err := syscall.Wait4(-tr.pid, &st, anyThread, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return st, err
		}
		if st.Exited() || st.Signaled() {
			if tid == tr.pid {
				return st, nil
			}
			continue
		}
		signal := 0
		switch sig := st.StopSignal(); {
		case sig == syscall.SIGTRAP|0x80:
			err = tr.stopped(tid)
		case sig == syscall.SIGTRAP && st.TrapCause() > 0:
		case tr.calls[tid] == nil: // a new thread
			tr.calls[tid] = &call{}
		default:
			signal = int(sig)
		}
		if err == nil {
			err = syscall.PtraceSyscall(tid, signal)
		}
		if err != nil && !errors.Is(err, syscall.ESRCH) { // else it was killed
			return st, err
		}
	}
}

// syscallInfo is struct ptrace_syscall_info as far as it is needed.
type syscallInfo struct {
	op      uint8
	_       [3]uint8
	arch    uint32
	ip, sp  uint64
	entry   [7]uint64 // number and arguments; on exit the result first
	padding [4]uint64
}

const (
	getSyscallInfo = 0x420e
	atEntry        = 1
)

// stopped deals with the beginning or the end of a system call.
func (tr *tracer) stopped(tid int) error {
	var info syscallInfo
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0); errno != 0 {
		return errno
	}
	c := tr.calls[tid]
	if c == nil {
		c = &call{}
		tr.calls[tid] = c
	}
	if info.op == atEntry {
		*c = call{}
		if c.event, c.isFile = tr.event(tid, info.entry[0], info.entry[1:]); !c.isFile {
			return nil
		}
		if !tr.killed {
			c.fate = tr.decide(c.event)
		}
		tr.events = append(tr.events, c.event)
		switch {
		case c.fate == fate{} || c.fate.done:
			return nil
		case c.fate.kill:
			return errors.Join(setNumber(tid, ^uint64(0)), tr.kill())
		}
		return setNumber(tid, ^uint64(0)) // no system call: it does nothing
	}
	if !c.isFile || c.fate == (fate{}) {
		return nil
	}
	if c.fate.kill {
		return tr.kill()
	}
	return setResult(tid, -int64(c.fate.errno))
}

func (tr *tracer) kill() error {
	tr.killed = true
	return syscall.Kill(tr.pid, syscall.SIGKILL)
}

func setNumber(tid int, n uint64) error {
	var regs syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(tid, &regs); err != nil {
		return err
	}
	regs.Orig_rax = n
	return syscall.PtraceSetRegs(tid, &regs)
}

func setResult(tid int, n int64) error {
	var regs syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(tid, &regs); err != nil {
		return err
	}
	regs.Rax = uint64(n)
	return syscall.PtraceSetRegs(tid, &regs)
}

// event reads a system call's files, and reports false when it has none in
// the tracer's folder.
func (tr *tracer) event(tid int, number uint64, args []uint64) (e event, ok bool) {
	f, ok := files[number]
	if !ok || f.flag >= 0 && args[f.flag]&unix.O_CREAT == 0 {
		return e, false
	}
	e.name = f.name
	if f.fd >= 0 {
		e.path = tr.descriptor(tid, args[f.fd])
	} else {
		e.path = tr.named(tid, args[f.dir], args[f.path])
	}
	if f.to >= 0 {
		e.to = tr.named(tid, args[f.toDir], args[f.to])
		e.noReplace = number == unix.SYS_RENAMEAT2 && args[4]&unix.RENAME_NOREPLACE != 0
	}
	base := filepath.Base(e.path)
	return e, strings.HasPrefix(e.path+"/", tr.dir+"/") && !strings.HasPrefix(base, "out-") && !strings.HasPrefix(base, "err-")
}

func (tr *tracer) descriptor(tid int, fd uint64) string {
	p, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, int32(fd)))
	return p
}

func (tr *tracer) named(tid int, dir, address uint64) string {
	buf := make([]byte, 4096)
	n, _ := syscall.PtracePeekData(tid, uintptr(address), buf)
	p, _, _ := strings.Cut(string(buf[:n]), "\x00")
	if filepath.IsAbs(p) {
		return p
	}
	if int32(dir) == unix.AT_FDCWD {
		return filepath.Join(tr.dir, p)
	}
	return filepath.Join(tr.descriptor(tid, dir), p)
}

// TestTracer checks that what is injected happens, and nothing else.
func TestTracer(t *testing.T) {
	w := newWorld(t)
	w.must("setup", w.parent)
	r, events := w.trace(func(event) fate { return fate{} }, "setup")
	for _, e := range events {
		if r.code != 0 || e.name != "read" {
			t.Errorf("a setup that has nothing to do does %v: %v", e, r)
		}
	}
	removeAll(t, w.medv)
	r, events = w.trace(func(e event) (f fate) {
		if e.name == "mkdir" {
			f.errno = syscall.EDQUOT
		}
		return f
	}, "setup")
	if r.check(t, 1, []string{"disk quota exceeded", w.medv}, "setup"); exists(w.medv) || len(events) == 0 {
		t.Errorf("the folder was made, or nobody tried to: %v", events)
	}
	r, _ = w.trace(func(e event) (f fate) {
		if e.name == "mkdir" {
			f = fate{kill: true, done: true}
		}
		return f
	}, "setup")
	if r.code != -1 || !exists(w.medv) {
		t.Errorf("it was not killed after mkdir: %v", r)
	}
}
