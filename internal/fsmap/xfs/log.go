package xfs

import (
	"bytes"
	"fmt"

	"prestage/internal/fsmap/volume"
)

// Of the log.
const (
	logBlock        = 512 // bytes; the log has blocks of its own
	logMagic        = 0xfeedbabe
	logHeaderCycles = 32 << 10 // bytes of a record for each block of its header
	logMostRecord   = 256 << 10
	opUnmount       = 0x20 // flag of an operation
	version2        = 2
)

var errNotUnmounted = fmt.Errorf("%w: XFS was not unmounted: its log must be replayed; start the virtual machine and shut it down", volume.ErrRefused)

// checkLog sees that the last that was written to the log is that the volume was
// unmounted. Each block of the log says in which cycle it was written: those
// before the log's head in one, those behind it in the cycle before. Whatever
// looks different was not unmounted, as far as is known here.
func (fs *fileSystem) checkLog() error {
	blocks := fs.logBlocks * fs.block / logBlock
	head, err := fs.logHead(blocks)
	if err != nil {
		return err
	}
	// The last record ends at the head. Its first block is the next one before
	// that has the mark: other blocks have their cycle where it would be.
	most := min(blocks, 2*(logMostRecord+logMostRecord/logHeaderCycles*logBlock)/logBlock)
	p := make([]byte, logBlock)
	for back := int64(1); back <= most; back++ {
		at := (head - back + blocks) % blocks
		if err := fs.readLog(p, at); err != nil {
			return err
		}
		if be.Uint32(p) == logMagic {
			return fs.checkUnmount(p, at, back, blocks)
		}
	}
	return errNotUnmounted
}

// readLog reads blocks of the log that do not wrap around its end.
func (fs *fileSystem) readLog(p []byte, at int64) error {
	_, err := fs.r.ReadAt(p, fs.logStart*fs.block+at*logBlock)
	return err
}

// logHead returns the block after the one that was written last.
func (fs *fileSystem) logHead(blocks int64) (int64, error) {
	buf := make([]byte, 1<<18)
	head := int64(-1)
	var cycle uint32 // of the block before
	for first := int64(0); first < blocks; first += int64(len(buf)) / logBlock {
		p := buf[:min(int64(len(buf)), (blocks-first)*logBlock)]
		if err := fs.readLog(p, first); err != nil {
			return 0, err
		}
		for i := 0; i < len(p); i += logBlock {
			c := be.Uint32(p[i:])
			if c == logMagic {
				c = be.Uint32(p[i+4:])
			}
			at := first + int64(i)/logBlock
			if at > 0 && c != cycle {
				if head >= 0 || c != cycle-1 {
					return 0, errNotUnmounted
				}
				head = at
			}
			cycle = c
		}
	}
	return max(head, 0), nil // one cycle alone fills the log to its end
}

// checkUnmount sees that a record, which begins so many blocks before the log's
// head, ends there and says that the volume was unmounted.
func (fs *fileSystem) checkUnmount(h []byte, at, back, blocks int64) error {
	version, length, size := be.Uint32(h[8:]), int64(be.Uint32(h[12:])), int64(be.Uint32(h[320:]))
	header := int64(1)
	if version&version2 != 0 && size > logHeaderCycles {
		header = (size + logHeaderCycles - 1) / logHeaderCycles
	}
	switch {
	case version&^3 != 0 || version == 0 || size > logMostRecord:
		return refused("XFS has a log of a kind that is not known here")
	case !bytes.Equal(h[304:320], fs.uuid[:]):
		return refused("XFS has the log of another volume")
	case length > logMostRecord || header+(length+logBlock-1)/logBlock != back || be.Uint32(h[40:]) != 1 || length < 12:
		return errNotUnmounted
	}
	p := make([]byte, logBlock)
	if err := fs.readLog(p, (at+header)%blocks); err != nil {
		return err
	}
	if p[9]&opUnmount == 0 {
		return errNotUnmounted
	}
	return nil
}
