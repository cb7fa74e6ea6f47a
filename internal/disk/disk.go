// Package disk opens disk images and says which of their bytes hold data.
package disk

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"prestage/ckm"
)

// A File is one open file of an image.
type File struct {
	Path   string // relative to the image, / between elements
	Size   int64  // bytes
	Format string // disk container, "raw" if none was recognised

	r       io.ReaderAt
	f       *os.File // nil if it is read from elsewhere
	changed time.Time
}

// NewFile returns a file of an image whose bytes come from r.
func NewFile(path string, size int64, format string, r io.ReaderAt) *File {
	return &File{Path: path, Size: size, Format: format, r: r}
}

// Open opens the image at source: one file (or a block device), or a folder
// of files, all of which are part of the image. The files come in the order
// of their paths. The caller closes each of them.
func Open(source string) ([]*File, error) {
	st, err := os.Stat(source)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		f, err := open(source, filepath.Base(source))
		if err != nil {
			return nil, err
		}
		return []*File{f}, nil
	}
	var files []*File
	err = filepath.WalkDir(source, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%q is not a regular file: an image folder may only hold files and folders", p)
		}
		if len(files) == ckm.MaxFiles {
			return fmt.Errorf("folder %q holds more than %d files, the most that an image may have", source, ckm.MaxFiles)
		}
		rel, err := filepath.Rel(source, p)
		if err != nil {
			return err
		}
		f, err := open(p, filepath.ToSlash(rel))
		if err == nil {
			files = append(files, f)
		}
		return err
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("folder %q holds no files", source)
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		return nil, err
	}
	return files, nil
}

func open(p, rel string) (*File, error) {
	st, err := os.Stat(p)
	if err != nil {
		return nil, err
	}
	// A pipe is refused before it is opened: that would wait for a writer.
	if !st.Mode().IsRegular() && st.Mode().Type()&^fs.ModeDevice != 0 {
		return nil, fmt.Errorf("%q is neither a file nor a block device", p)
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, err
	}
	var size int64
	if st, err = f.Stat(); err == nil {
		size, err = f.Seek(0, io.SeekEnd) // unlike Stat also right for devices
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &File{Path: rel, Size: size, Format: format(f, rel), r: f, f: f, changed: st.ModTime()}, nil
}

// ReadAt reads len(p) bytes from offset off. See io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.r.ReadAt(p, off) }

// Close closes the file.
func (f *File) Close() error {
	if f.f == nil {
		return nil
	}
	return f.f.Close()
}

// NextData returns the offset of the first byte at or after off that may be
// other than zero, or the file's size when there is none. Where the system
// cannot tell, it returns off.
func (f *File) NextData(off int64) (int64, error) {
	if f.f == nil {
		return off, nil
	}
	return NextData(f.f, off, f.Size)
}

// CheckUnchanged returns an error when the file was changed since it was
// opened.
func (f *File) CheckUnchanged() error {
	if f.f == nil {
		return nil
	}
	st, err := f.f.Stat()
	if err != nil {
		return err
	}
	if st.Mode().IsRegular() && (st.Size() != f.Size || !st.ModTime().Equal(f.changed)) {
		return fmt.Errorf("%q was changed while it was read; stop the virtual machine that uses it and try again", f.f.Name())
	}
	return nil
}

// format recognises disk containers by their first bytes. It is for
// information only.
func format(f *os.File, name string) string {
	head := make([]byte, 512)
	n, _ := f.ReadAt(head, 0)
	head = head[:n]
	for _, m := range []struct{ magic, format string }{
		{"QFI\xfb", "qcow2"}, {"vhdxfile", "vhdx"}, {"conectix", "vhd"}, {"KDMV", "vmdk"}, {"# Disk DescriptorFile", "vmdk"},
	} {
		if strings.HasPrefix(string(head), m.magic) {
			return m.format
		}
	}
	if ext := strings.ToLower(path.Ext(name)); ext == ".vhd" {
		return "vhd" // a fixed VHD has its mark at the end
	}
	return "raw"
}
