package prestage

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"
	"time"

	"prestage/ckm"
	"prestage/internal/assemble"
	"prestage/internal/host"
)

// Ways by which a copy is found whole: what Push is asked for, and what a
// receipt says was done.
const (
	// HowReadback: every byte was read from the host's disk and compared with
	// its digest. Where the machine has prestage, Push leaves that to it
	// (HowHost); elsewhere the copy is read over the network.
	HowReadback = "readback"
	// HowHost: the machine itself did so. Push leaves it to whatever the machine
	// has: prestage, sha256sum, or the agent that runs there, which finds the
	// package in its place. Where there is nothing, it is HowReadback.
	HowHost = "host"
	// HowSample: a hundredth of the copy was read back and compared.
	HowSample = "sample"
	// HowNone: nothing was read back. The machine has acknowledged every byte;
	// what its disk made of them nobody has seen.
	HowNone = "none"
)

// sampleShare is the part of a copy that HowSample reads.
const sampleShare = 0.01

// strength orders the ways by what they prove. What is not known proves nothing.
var strength = map[string]int{HowNone: 1, HowSample: 2, HowHost: 3, HowReadback: 3}

// KnownHow reports whether a copy can be checked in that way.
func KnownHow(how string) bool { return strength[how] > 0 }

// AgentLock is the file in the image store that the agent of a machine holds as
// long as it runs.
const AgentLock = ".agent.lock"

// checkCopy looks at the two files that were written, and says how. It is an
// error if they are not what was to be written.
func (p *push) checkCopy(ctx context.Context, data, index string) (how string, err error) {
	if p.o.How == HowNone || p.o.How == HowHost && p.agentWillCheck(ctx) {
		return HowNone, nil
	}
	whole, err := p.holdsIndex(ctx, index)
	if whole && err == nil {
		whole, how, err = p.examine(ctx, data, index)
	}
	if err == nil && !whole {
		p.h.Remove(ctx, data)
		p.h.Remove(ctx, p.partial(ckm.IndexName(p.x.Name, p.x.Version)))
		err = fmt.Errorf("%w: what was read back from %s is not what was written; check its disk", ErrDamaged, data)
	}
	return how, err
}

// holdsIndex reports whether path holds the INDEX, byte for byte. It is an error
// if the file is there and cannot be read.
func (p *push) holdsIndex(ctx context.Context, path string) (bool, error) {
	r, err := p.h.Open(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.NewSectionReader(r, 0, int64(len(p.encoded))+1))
	return bytes.Equal(b, p.encoded), err
}

// examine finds out, in the way that was asked for, whether data is the CKM.
// Index is where its INDEX lies on the machine, or "".
func (p *push) examine(ctx context.Context, data, index string) (whole bool, how string, err error) {
	if c, ok := host.CheckerOf(p.h); ok && (p.o.How == HowReadback || p.o.How == HowHost) {
		whole, err := p.ask(ctx, c, data, index)
		if err == nil {
			return whole, HowHost, nil
		}
		if ctx.Err() != nil || errors.Is(err, host.ErrUnreachable) {
			return false, "", err
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			p.m.Warn("%s could not check %s itself: %v; it is read over the network", p.h.Name(), data, err)
		}
	}
	how = HowReadback
	if p.o.How == HowSample {
		how = HowSample
	}
	whole, err = p.readBack(ctx, data, how)
	return whole, how, err
}

// ask has the machine itself check a CKM.
func (p *push) ask(ctx context.Context, c host.Checker, data, index string) (whole bool, err error) {
	p.m.Begin("having it checked there", 0)
	alive := func() { p.m.Add(0) }
	err = errors.ErrUnsupported
	if index != "" {
		var digest string
		if digest, err = c.CheckPackage(ctx, index, data, alive); err == nil {
			return digest == p.x.Digest().String(), nil
		}
	}
	if p.o.How == HowHost && errors.Is(err, errors.ErrUnsupported) {
		var sum string
		if sum, err = c.Sum(ctx, data, alive); err == nil {
			return sum == hex.EncodeToString(p.x.CKMSHA256[:]), nil
		}
	}
	return false, err
}

// readBack reads a CKM from the host, all of it or a sample, and compares.
func (p *push) readBack(ctx context.Context, path, how string) (bool, error) {
	r, err := p.h.Open(ctx, path)
	if err != nil {
		return false, err
	}
	defer r.Close()
	size, err := r.Size()
	if err != nil {
		return false, err
	}
	if err := r.Sync(); err != nil { // what is read shall come from the disk
		return false, err
	}
	var (
		bad    atomic.Bool
		framed bool
		spoilt = func(int) { bad.Store(true) }
	)
	if how == HowSample {
		begin := func(total int64) { p.m.Begin("reading back a sample", total) }
		framed, err = assemble.SampleCKM(ctx, p.x, r, size, sampleShare, begin, p.m.Add, spoilt)
	} else {
		p.m.Begin("reading back", int64(p.x.CKMLength))
		framed, err = assemble.CheckCKM(ctx, p.x, r, size, p.m.Add, spoilt)
	}
	return framed && !bad.Load(), err
}

// agentWillCheck reports whether a prestage on the machine will check the
// package once it is in its place.
func (p *push) agentWillCheck(ctx context.Context) bool {
	if _, ok := host.CheckerOf(p.h); ok || p.store == "" {
		return false // there are quicker ways
	}
	used, err := p.h.InUse(ctx, p.h.Join(p.store, AgentLock))
	return err == nil && used
}

// How long the agent of a machine is waited for: it may look only every minute,
// and then reads the package from a disk that others use too.
const (
	agentPatience = 3 * time.Minute
	agentSpeed    = 20 << 20 // bytes a second
)

// awaitAgent waits until the agent of the machine has checked the package. When
// it does not, or finds damage, the package is read over the network.
func (p *push) awaitAgent(ctx context.Context) error {
	p.m.Begin("waiting for its agent to check", 0)
	end := time.Now().Add(agentPatience + time.Duration(p.x.CKMLength/agentSpeed)*time.Second)
	for time.Now().Before(end) {
		r := p.readReceipt(ctx, p.x.Name, p.x.Version)
		if r == nil { // it found damage, or somebody else is at work here
			break
		}
		if strength[r.How] >= strength[HowHost] && r.PackageDigest == p.x.Digest().String() {
			p.done.Receipt = r
			return nil
		}
		p.m.Add(0)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	unlock, err := p.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	data, index := p.file(ckm.DataName(p.x.Name, p.x.Version)), p.file(ckm.IndexName(p.x.Name, p.x.Version))
	before, seen, err := p.look(ctx, p.x.Name, p.x.Version)
	if err != nil {
		return err
	}
	whole, err := p.holdsIndex(ctx, index)
	if whole && err == nil {
		whole, err = p.readBack(ctx, data, HowReadback)
	}
	if err != nil {
		return err
	}
	if !whole {
		if err := p.h.Remove(ctx, p.h.Join(p.aside, receiptName(p.x.Name, p.x.Version))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return fmt.Errorf("%w: what was read back from %s is not what was written; check its disk, and push again", ErrDamaged, data)
	}
	p.done.Receipt, err = p.writeReceipt(ctx, p.x, HowReadback, before, seen)
	return err
}
