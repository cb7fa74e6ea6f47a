package ext

import (
	"bytes"
	"context"
	"slices"
	"strings"

	"prestage/internal/fsmap/volume"
)

const (
	rootInode     = 2
	flagEncrypted = 0x800
	inlineParent  = 4   // bytes before the entries of a folder that lies in its inode
	entryBytes    = 8   // of an entry, before its name
	mostAbove     = 512 // folders above a file; deeper ones have no name here
	mostPath      = 4096
)

// folder is a directory: its inode, and the name by which it is found.
type folder struct {
	inode  []byte // as far as its map
	parent int64
	name   string
}

// Names implements volume.Namer. What lies in encrypted folders has none.
func (fs *fileSystem) Names(ctx context.Context, yield func(id uint64, path string) error) error {
	folders := make(map[int64]*folder)
	err := fs.scan(ctx, func(number int64, inode []byte) error {
		isFolder := le.Uint16(inode)&modeMask == modeFolder && (number >= fs.firstInode || number == rootInode)
		if isFolder && le.Uint32(inode[0x20:])&flagEncrypted == 0 {
			folders[number] = &folder{inode: bytes.Clone(inode[:128])}
		}
		return nil
	})
	if err != nil {
		return err
	}
	numbers := make([]int64, 0, len(folders))
	for n := range folders {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers) // neighbours lie together
	if err := fs.entries(ctx, folders, numbers, func(in, number int64, name string) error {
		if f := folders[number]; f != nil && f.parent == 0 && number != rootInode {
			f.parent, f.name = in, name
		}
		return nil
	}); err != nil {
		return err
	}
	above, path, ok := int64(0), "", false
	return fs.entries(ctx, folders, numbers, func(in, number int64, name string) error {
		if folders[number] != nil {
			return nil
		}
		if in != above {
			above = in
			path, ok = pathOf(folders, in)
		}
		if !ok || len(path)+len(name) > mostPath {
			return nil
		}
		return yield(uint64(number), path+name)
	})
}

// pathOf returns the path of a folder, with / at its end; none if it does not lead
// to the root.
func pathOf(folders map[int64]*folder, number int64) (path string, ok bool) {
	var elements []string
	for range mostAbove {
		if number == rootInode {
			slices.Reverse(elements)
			return strings.Join(elements, ""), true
		}
		f := folders[number]
		if f == nil {
			break
		}
		elements = append(elements, f.name+"/")
		number = f.parent
	}
	return "", false
}

// entries calls visit with the entries of folders, but for themselves and those
// above them.
func (fs *fileSystem) entries(ctx context.Context, folders map[int64]*folder, numbers []int64, visit func(in, number int64, name string) error) error {
	s := fs.newScanner()
	p := make([]byte, fs.block)
	for _, n := range numbers {
		if err := ctx.Err(); err != nil {
			return err
		}
		inode := folders[n].inode
		if le.Uint32(inode[0x20:])&flagInline != 0 {
			// What does not fit there lies among the inode's attributes, and is not
			// looked for.
			if err := parseEntries(n, inode[0x28+inlineParent:0x28+mapBytes], visit); err != nil {
				return err
			}
			continue
		}
		extents, err := s.folder(n, inode)
		if err != nil {
			return err
		}
		for _, e := range extents {
			for at := e.Offset; at < e.End(); at += fs.block {
				p := p[:min(fs.block, e.End()-at)]
				if _, err := fs.r.ReadAt(p, at); err != nil {
					return err
				}
				if err := parseEntries(n, p, visit); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// parseEntries reads a block of a folder. The nodes of a folder's index look like
// unused entries.
func parseEntries(in int64, p []byte, visit func(in, number int64, name string) error) error {
	for len(p) >= entryBytes {
		number, length := int64(le.Uint32(p)), int(le.Uint16(p[4:]))
		if length == 0 || length == 0xffff { // more than 16 bits can say
			length = len(p)
		} else if length&3 != 0 {
			length = length&^3 | length&3<<16
		}
		nameLen := int(p[6])
		if length < entryBytes+nameLen || length > len(p) {
			return damaged("a folder, inode %d, has an entry of %d bytes", in, length)
		}
		name := strings.ToValidUTF8(string(p[entryBytes:entryBytes+nameLen]), "\uFFFD")
		if number != 0 && name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00") {
			if err := visit(in, number, name); err != nil {
				return err
			}
		}
		p = p[length:]
	}
	return nil
}

var _ volume.Namer = (*fileSystem)(nil)
