package sshhost

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"sync/atomic"
	"time"
)

// takeLock locks the file $1 as our programs on the machine do, says $2, and
// holds the lock for as long as something is sent every $3 seconds: a network
// that was cut must not hold it for ever.
const takeLock = `umask 077
if [ -L "$1" ] || { [ -e "$1" ] && [ ! -f "$1" ]; }; then echo "it is not a regular file; remove it"; exit; fi
if ! command -v flock >/dev/null; then echo "there is no program flock; install the package util-linux"; exit; fi
if ! ( : >>"$1" ) 2>/dev/null; then echo "it cannot be opened"; exit; fi
exec 9>>"$1"
until flock -n 9; do
	if [ $? != 1 ]; then echo "flock does not work on its file system"; exit; fi
	echo waiting || exit
	sleep 0.2 2>/dev/null || sleep 1
done
echo "$2"
while [ -n "$(timeout "$3" head -c 1)" ]; do :; done
exit`

// Lock implements host.Host. Should the lock be lost, the connection ends:
// nobody goes on as if he held it.
func (h *Host) Lock(ctx context.Context, p string) (unlock func(), err error) {
	if err := checkPath(p); err != nil {
		return nil, err
	}
	s, err := h.startShell(ctx)
	if err != nil {
		return nil, err
	}
	lease := max(2, int((4*h.o.Silence+time.Second-1)/time.Second))
	taken := make(chan error, 1)
	go func() {
		err := s.send(takeLock, p, h.nonce, strconv.Itoa(lease))
		for line := ""; err == nil && line != h.nonce; {
			if line, err = s.line(); err == nil && line != h.nonce && line != "waiting" {
				err = errors.New(printable(line))
			}
		}
		taken <- err
	}()
	select {
	case err = <-taken:
		err = h.explain(err)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		s.close() // the script ends when it cannot say any more that it is waiting
		if _, e := h.lstat(context.WithoutCancel(ctx), h.Join(p, "..")); errors.Is(e, fs.ErrNotExist) {
			err = e
		}
		return nil, fmt.Errorf("locking %q: %w", p, err)
	}
	var released atomic.Bool
	ended := make(chan struct{})
	go func() {
		s.line() // there is none
		if !released.Load() {
			h.conn.cut(fmt.Errorf("the lock %q was lost", p))
		}
		close(ended)
	}()
	go func() {
		t := time.NewTicker(h.o.Silence / ticks)
		defer t.Stop()
		for {
			select {
			case <-ended:
				return
			case <-t.C:
				s.in.Write([]byte("."))
			}
		}
	}()
	return func() {
		released.Store(true)
		s.in.Close()
		select {
		case <-ended:
		case <-time.After(h.o.Silence):
		}
		s.close()
	}, nil
}

// whoHas says whether a program has the file $1 open or mapped. It is not found
// by find -samefile, which opens the file itself.
const whoHas = `number=$(stat -c %i -- "$1") || exit 9
find -L /proc/[0-9]*/fd /proc/[0-9]*/map_files -maxdepth 1 -inum "$number" 2>/dev/null |
while IFS= read -r f; do
	if [ "$f" -ef "$1" ]; then echo "$f"; break; fi
done`

// InUse implements host.Host.
func (h *Host) InUse(ctx context.Context, p string) (bool, error) {
	if _, err := h.lstat(ctx, p); err != nil {
		return false, err
	}
	out, status, err := h.try(ctx, whoHas, p)
	if err == nil && status == 9 {
		err = fmt.Errorf("which files are open on %s: %w", h.o.Name, errors.ErrUnsupported)
	}
	return out != "", err
}
