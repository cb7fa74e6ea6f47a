package fat

import (
	"bytes"
	"context"
	"strings"

	"prestage/internal/fsmap/volume"
)

const (
	mostDepth  = 512      // of folders; a path that Windows can open has fewer
	mostFolder = 64 << 15 // bytes of a FAT folder: 65536 entries
)

// node is a file or a folder, as the folder that it is in says.
type node struct {
	place
	id     uint64 // where its first entry lies, in entries from the volume's start
	folder bool
	size   int64 // bytes of its content
	valid  int64 // bytes that were written; zeros follow
	kind   volume.Kind
	name   string
}

// walker walks the folders of a volume once.
type walker struct {
	fs    *fileSystem
	cache *cache // of the allocation table
	used  *cache // of exFAT's bitmap; nil if it is not compared
	names bool   // they are wanted
	// budget is the clusters that were not claimed yet. A cluster belongs to one
	// file or folder. That bounds all the work, too.
	budget int64
	open   []*folder // from the root on
}

func (fs *fileSystem) newWalker(names bool) *walker {
	return &walker{fs: fs, cache: fs.table.newCache(fs.r), names: names, budget: fs.clusters}
}

// claim takes n clusters from c on for a file.
func (w *walker) claim(c, n int64) error {
	if !w.fs.isCluster(c, n) {
		return damaged("%s: %d clusters from cluster %d on lie outside", w.fs.name, n, c)
	}
	if w.budget -= n; w.budget < 0 {
		return damaged("files of %s have more clusters than the volume", w.fs.name)
	}
	return w.isUsed(c, n)
}

// follow returns the cluster after c in its file; end is true if there is none.
func (w *walker) follow(c int64) (next int64, end bool, err error) {
	e, err := w.fs.table.entry(w.cache, c)
	switch {
	case err != nil:
		return 0, false, err
	case e >= w.fs.table.last:
		return 0, true, nil
	case !w.fs.isCluster(int64(e), 1):
		return 0, false, damaged("the allocation table of %s says %#x of cluster %d, which is in use", w.fs.name, e, c)
	}
	return int64(e), false, nil
}

// runs claims a content's clusters and calls yield with ranges of them, in order.
func (w *walker) runs(p *place, yield func(c, n int64) error) error {
	left := (p.length + w.fs.cluster - 1) / w.fs.cluster
	if left == 0 {
		return nil
	}
	if p.contiguous {
		if err := w.claim(p.cluster, left); err != nil {
			return err
		}
		return yield(p.cluster, left)
	}
	first, n := p.cluster, int64(0)
	for c := first; ; {
		if err := w.claim(c, 1); err != nil {
			return err
		}
		n++
		left--
		// What a file's last cluster says is looked at too: a free one is in no file.
		next, end, err := w.follow(c)
		if err != nil {
			return err
		}
		if end && left > 0 && !p.chained {
			return damaged("a file of %s lacks %d clusters", w.fs.name, left)
		}
		if end || left == 0 {
			return yield(first, n)
		}
		if next != c+1 {
			if err := yield(first, n); err != nil {
				return err
			}
			first, n = next, 0
		}
		c = next
	}
}

// folder is a folder that is being read.
type folder struct {
	w       *walker
	name    string
	place   place
	cluster int64  // that is being read, 0 before the first
	at, end int64  // what was not read yet of it, as offsets in the volume
	left    int64  // bytes of the folder that were not read yet
	buf     []byte // from at on
	store   [2048]byte
	done    bool
}

func (w *walker) folder(p place, name string) *folder {
	d := &folder{w: w, place: p, name: name, left: p.length}
	if p.offset > 0 {
		d.at, d.end = p.offset, p.offset+p.length
	}
	return d
}

// entry returns the next entry, which is valid until the next call, and where it
// lies, in entries from the volume's start; it is nil at the end.
func (d *folder) entry() ([]byte, uint64, error) {
	if d.done || d.left < entrySize {
		d.done = true
		return nil, 0, nil
	}
	if d.at == d.end {
		if err := d.advance(); err != nil || d.done {
			return nil, 0, err
		}
	}
	if len(d.buf) == 0 {
		d.buf = d.store[:min(int64(len(d.store)), d.end-d.at)]
		if _, err := d.w.fs.r.ReadAt(d.buf, d.at); err != nil {
			return nil, 0, err
		}
	}
	e, id := d.buf[:entrySize], uint64(d.at/entrySize)
	d.buf = d.buf[entrySize:]
	d.at += entrySize
	d.left -= entrySize
	return e, id, nil
}

// advance goes to the next cluster.
func (d *folder) advance() error {
	fs := d.w.fs
	next := d.cluster + 1
	if d.cluster == 0 {
		next = d.place.cluster
	} else if !d.place.contiguous {
		var (
			end bool
			err error
		)
		if next, end, err = d.w.follow(d.cluster); err != nil {
			return err
		}
		if end {
			if !d.place.chained {
				return damaged("a folder of %s lacks %d bytes", fs.name, d.left)
			}
			d.done = true
			return nil
		}
	}
	if err := d.w.claim(next, 1); err != nil {
		return err
	}
	d.cluster, d.at = next, fs.offset(next)
	d.end = d.at + min(fs.cluster, d.left)
	return nil
}

// finish claims the clusters behind the folder's last entry.
func (d *folder) finish() error {
	if d.place.offset > 0 {
		return nil
	}
	for d.done = false; !d.done; {
		if d.left -= d.end - d.at; d.left <= 0 {
			if !d.place.chained {
				return nil
			}
			if _, end, err := d.w.follow(d.cluster); err != nil || end {
				return err
			}
			return damaged("a folder of %s has more than %d bytes", d.w.fs.name, d.place.length)
		}
		if err := d.advance(); err != nil {
			return err
		}
	}
	return nil
}

// walk calls yield with each file. Folders that it finds it reads at once, so
// that it keeps but those that lead to where it is.
func (w *walker) walk(ctx context.Context, yield func(*node) error) error {
	w.open = []*folder{w.folder(w.fs.root, "")}
	for len(w.open) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		d := w.open[len(w.open)-1]
		var n node
		ok, err := w.fs.dir.next(d, &n)
		if err != nil {
			return err
		}
		if !ok {
			if err := d.finish(); err != nil {
				return err
			}
			w.open = w.open[:len(w.open)-1]
			continue
		}
		if !n.folder {
			if err := yield(&n); err != nil {
				return err
			}
			continue
		}
		if len(w.open) >= mostDepth {
			return refused("%s with folders in folders, more than %d", w.fs.name, mostDepth)
		}
		if n.length > 0 {
			w.open = append(w.open, w.folder(n.place, n.name))
		}
	}
	return nil
}

// path returns the path of a file in the folder that is being read.
func (w *walker) path(n *node) string {
	var p strings.Builder
	for _, d := range w.open[1:] {
		p.WriteString(d.name)
		p.WriteByte('/')
	}
	p.WriteString(n.name)
	return p.String()
}

// extents returns where the written bytes of a file lie.
func (w *walker) extents(n *node) ([]volume.Extent, error) {
	var list []volume.Extent
	left := min(n.size, n.valid)
	err := w.runs(&n.place, func(c, count int64) error {
		e := volume.Extent{Offset: w.fs.offset(c), Length: min(left, count*w.fs.cluster)}
		if e.Length > 0 {
			list = append(list, e)
			left -= e.Length
		}
		return nil
	})
	return list, err
}

// Files implements volume.FileSystem. A file's ID is where its entry in its
// folder lies: it has no number.
func (fs *fileSystem) Files(ctx context.Context, yield func(*volume.File) error) error {
	w := fs.newWalker(false)
	return w.walk(ctx, func(n *node) error {
		list, err := w.extents(n)
		if err != nil || len(list) == 0 {
			return err
		}
		return yield(&volume.File{ID: n.id, Kind: n.kind, Size: n.size, Extents: list})
	})
}

// Names implements volume.Namer.
func (fs *fileSystem) Names(ctx context.Context, yield func(id uint64, path string) error) error {
	w := fs.newWalker(true)
	return w.walk(ctx, func(n *node) error { return yield(n.id, w.path(n)) })
}

// checkHibernation refuses a volume whose hiberfil.sys has a system in it, which
// has the volume mounted.
func (fs *fileSystem) checkHibernation(e volume.Extent) error {
	if e.Length < 4 {
		return nil
	}
	magic := make([]byte, 4)
	if _, err := fs.r.ReadAt(magic, e.Offset); err != nil {
		return err
	}
	switch string(bytes.ToLower(magic)) {
	case "hibr", "rstr": // asleep; on its way to be awake
		return refused("%s holds a hibernated Windows: %s", fs.name, shutDown)
	}
	return nil
}
