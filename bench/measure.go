//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A side is one of the programs that do the same work.
type side struct {
	name string
	argv []string
	// fresh are the paths that the work creates: removed before each run, as
	// overwriting what is there is other work than creating it.
	fresh []string
	// before, if set, prepares a run after fresh was removed. Not timed.
	before func() error
	// after, if set, sees the result of each run. Not timed.
	after func(round int) error
	// wire, if set, tells how many bytes have gone over the network so far.
	wire func() (sent, received int64, err error)
	// keep leaves the last round's result in place, for later measurements.
	keep bool
}

// A sample is what one run cost, with all the processes that it waited for.
type sample struct {
	wall time.Duration
	cpu  time.Duration // user and system
	rss  int64         // peak resident memory of the biggest process, bytes

	sent, received int64 // over the network, bytes
}

// samples are one side's runs, by round.
type samples []sample

func (s samples) wall() time.Duration {
	return median(s, func(x sample) time.Duration { return x.wall })
}
func (s samples) cpu() time.Duration { return median(s, func(x sample) time.Duration { return x.cpu }) }

// rss is the highest peak of all rounds: a limit holds always, or not at all.
func (s samples) rss() int64 {
	var top int64
	for _, x := range s {
		top = max(top, x.rss)
	}
	return top
}

// wire is what went over the network.
func (s samples) wire() (sent, received int64) {
	return median(s, func(x sample) int64 { return x.sent }), median(s, func(x sample) int64 { return x.received })
}

// median is the middle value, or the mean of the two middle ones.
func median[E any, N ~int64](all []E, value func(E) N) N {
	if len(all) == 0 {
		return 0
	}
	v := make([]N, len(all))
	for i, x := range all {
		v[i] = value(x)
	}
	slices.Sort(v)
	mid := len(v) / 2
	if len(v)%2 == 1 {
		return v[mid]
	}
	return (v[mid-1] + v[mid]) / 2
}

// pairs is the lowest and the highest wall-clock ratio of two sides, round by
// round. The neighbours of a round met the same conditions; how far the pairs
// lie apart is how far the ratio of the medians may be trusted.
func pairs(ours, theirs samples) (low, high float64) {
	for i := range min(len(ours), len(theirs)) {
		r := ratio(ours[i].wall, theirs[i].wall)
		if i == 0 {
			low, high = r, r
		}
		low, high = min(low, r), max(high, r)
	}
	return low, high
}

func ratio[N ~int64](ours, theirs N) float64 {
	if theirs == 0 {
		return 0
	}
	return float64(ours) / float64(theirs)
}

// race lets the sides do their work in turns, A B C A B C, and returns their
// samples in the order of the sides.
func (b *bench) race(work string, sides []side) ([]samples, error) {
	all := make([]samples, len(sides))
	for round := range b.rounds {
		for i, s := range sides {
			x, err := b.once(s)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", work, s.name, err)
			}
			all[i] = append(all[i], x)
			b.say("%s, round %d of %d: %s: %.2f s", work, round+1, b.rounds, s.name, x.wall.Seconds())
			if s.after != nil {
				if err := s.after(round); err != nil {
					return nil, fmt.Errorf("%s: %s: %w", work, s.name, err)
				}
			}
			if s.keep && round == b.rounds-1 {
				continue
			}
			if err := removeAll(s.fresh); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// once runs one side from a clean start.
func (b *bench) once(s side) (sample, error) {
	if err := removeAll(s.fresh); err != nil {
		return sample{}, err
	}
	if s.before != nil {
		if err := s.before(); err != nil {
			return sample{}, err
		}
	}
	// What the run before left to be written back must not be charged to this
	// one.
	syscall.Sync()
	if s.wire == nil {
		return b.timed(s.argv)
	}
	sent, received, err := s.wire()
	if err != nil {
		return sample{}, err
	}
	x, err := b.timed(s.argv)
	if err != nil {
		return x, err
	}
	x.sent, x.received, err = s.wire()
	x.sent, x.received = x.sent-sent, x.received-received
	return x, err
}

// timed runs a command and says what it cost.
func (b *bench) timed(argv []string) (sample, error) {
	var said bytes.Buffer
	cmd := b.command(argv)
	cmd.Stderr = &said
	start := time.Now()
	err := cmd.Run()
	wall := time.Since(start)
	if err != nil {
		return sample{}, failure(argv, err, said.Bytes())
	}
	// The kernel keeps the sum for a process and those it waited for, and the
	// highest peak among them, in KiB. A process starts as a copy of ours, so that
	// no peak shows as less than this program's own, some 10 MiB.
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return sample{
		wall: wall,
		cpu:  cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(),
		rss:  int64(usage.Maxrss) * 1024,
	}, nil
}

// output runs a command that is not measured and returns its standard output.
func (b *bench) output(argv ...string) ([]byte, error) {
	var out, said bytes.Buffer
	cmd := b.command(argv)
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return out.Bytes(), failure(argv, err, said.Bytes())
	}
	return out.Bytes(), nil
}

// feed runs a command that reads text.
func (b *bench) feed(text string, argv ...string) error {
	cmd := b.command(argv)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return failure(argv, err, out)
	}
	return nil
}

func (b *bench) command(argv []string) *exec.Cmd {
	cmd := exec.CommandContext(b.ctx, argv[0], argv[1:]...)
	if b.env != nil {
		cmd.Env = append(os.Environ(), b.env...)
	}
	// A child that is told to stop removes its half-written files; only one
	// that does not listen is killed.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// failure says which command failed, and the end of what it said.
func failure(argv []string, err error, said []byte) error {
	const most = 2000
	if errors.Is(err, context.Canceled) {
		return err
	}
	said = bytes.TrimSpace(said)
	if len(said) > most {
		said = said[len(said)-most:]
	}
	return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, said)
}

// removeAll removes paths and all below them. Staged files are read-only, but
// on this system only their folder's mode decides who may remove them.
func removeAll(paths []string) error {
	for _, p := range paths {
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	return nil
}

// sameContent is nil if two files hold the same bytes. A benchmark of a
// program that writes something else than it should would be worth nothing.
// Where both files have a hole nothing is read: zeros that fill the page cache
// would push out what the next run expects there.
func sameContent(want, got string) error {
	a, err := os.Open(want)
	if err != nil {
		return err
	}
	defer a.Close()
	c, err := os.Open(got)
	if err != nil {
		return err
	}
	defer c.Close()
	infoA, errA := a.Stat()
	infoC, errC := c.Stat()
	if err := errors.Join(errA, errC); err != nil {
		return err
	}
	size := infoA.Size()
	if infoC.Size() != size {
		return fmt.Errorf("%s has %d bytes, not %d as %s", got, infoC.Size(), size, want)
	}
	const step = 1 << 20
	x, y := make([]byte, step), make([]byte, step)
	for offset := int64(0); offset < size; offset += step {
		offset = max(offset, min(nextData(a, offset, size), nextData(c, offset, size))/step*step)
		if offset >= size {
			break
		}
		n := min(step, size-offset)
		if _, err := a.ReadAt(x[:n], offset); err != nil {
			return err
		}
		if _, err := c.ReadAt(y[:n], offset); err != nil {
			return err
		}
		if !bytes.Equal(x[:n], y[:n]) {
			return fmt.Errorf("%s differs from %s within 1 MiB of offset %d", got, want, offset)
		}
	}
	return nil
}

// nextData is the first offset, from the given one on, that is not in a hole.
func nextData(f *os.File, offset, size int64) int64 {
	const seekData = 3 // SEEK_DATA of lseek(2)
	next, err := f.Seek(offset, seekData)
	switch {
	case errors.Is(err, syscall.ENXIO): // only a hole is left
		return size
	case err != nil: // a file system that cannot tell
		return offset
	}
	return next
}
