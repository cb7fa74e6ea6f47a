package prestage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"prestage/ckm"
	"prestage/internal/acl"
	"prestage/internal/host"
	"prestage/internal/repo"
)

// Receipt is the proof that a host's copy of a package was found whole, or, with
// HowNone, the note that it was written.
type Receipt struct {
	Name          string    `json:"name"`
	Version       uint32    `json:"version"`
	PackageDigest string    `json:"package_digest"`
	Verified      time.Time `json:"verified"`
	How           string    `json:"how"`
	CKM           Witness   `json:"ckm"`
	Index         Witness   `json:"index"`
}

// Witness is what a file looked like when it was verified. A file that looks
// otherwise has been touched since.
type Witness struct {
	Size     int64     `json:"size"` // bytes
	Modified time.Time `json:"modified"`
}

// witness describes a file. The same machine tells times more finely to its own
// programs than over SMB, which has them in units of 100 ns.
func witness(st host.Info) Witness {
	return Witness{st.Size, st.Modified.UTC().Truncate(100 * time.Nanosecond)}
}

// maxReceipt is the largest receipt that is read, in bytes.
const maxReceipt = 64 << 10

func receiptName(name string, version uint32) string {
	return fmt.Sprintf("%s_%d.receipt", name, version)
}

// ParseReceipt reads a receipt. It may come from a machine that is not trusted.
func ParseReceipt(p []byte) (*Receipt, error) {
	var r Receipt
	if err := json.Unmarshal(p, &r); err != nil {
		return nil, fmt.Errorf("receipt: %w: %v", ckm.ErrFormat, err)
	}
	if ckm.CheckName(r.Name) != nil || r.Version == 0 {
		return nil, fmt.Errorf("receipt: %w: name or version", ckm.ErrFormat)
	}
	return &r, nil
}

// readReceipt returns the receipt of a staged package, or nil if there is none
// that can be read: then the package has to be verified anew.
func (f folders) readReceipt(ctx context.Context, name string, version uint32) *Receipt {
	b, err := readFile(ctx, f.h, f.h.Join(f.aside, receiptName(name, version)), maxReceipt)
	if err != nil {
		return nil
	}
	r, err := ParseReceipt(b)
	if err != nil || r.Name != name || r.Version != version {
		return nil
	}
	return r
}

// look returns what the two files of a package look like now; what is not there
// looks like nothing.
func (f folders) look(ctx context.Context, name string, version uint32) (data, index Witness, err error) {
	for file, w := range map[string]*Witness{ckm.DataName(name, version): &data, ckm.IndexName(name, version): &index} {
		st, err := f.h.Stat(ctx, f.file(file))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return data, index, err
		}
		if err == nil {
			*w = witness(st)
		}
	}
	return data, index, nil
}

// writeReceipt records how the two files were found whole when they looked like
// data and index. Files that look otherwise by now are not the ones that were
// verified, which is an error.
func (f folders) writeReceipt(ctx context.Context, x *ckm.Index, how string, data, index Witness) (*Receipt, error) {
	r := &Receipt{Name: x.Name, Version: x.Version, PackageDigest: x.Digest().String(),
		Verified: time.Now().UTC().Truncate(time.Second), How: how, CKM: data, Index: index}
	if err := f.keepReceipt(ctx, r); err != nil {
		return nil, err
	}
	return r, nil
}

// keepReceipt writes a receipt, unless the files look otherwise by now than it says.
func (f folders) keepReceipt(ctx context.Context, r *Receipt) error {
	if data, index, err := f.look(ctx, r.Name, r.Version); err != nil {
		return err
	} else if data != r.CKM || index != r.Index {
		return fmt.Errorf("the files of %s in %s changed while they were verified; verify or push again", repo.ImageName(r.Name, r.Version), f.staged)
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return f.writeFile(ctx, f.h.Join(f.aside, receiptName(r.Name, r.Version)), append(b, '\n'))
}

// witnessed reports whether the staged files look as they did when the receipt
// was written, sealed and of the package with this digest.
func (f folders) witnessed(ctx context.Context, r *Receipt, digest ckm.Digest) bool {
	if r == nil || r.PackageDigest != digest.String() {
		return false
	}
	for name, w := range map[string]Witness{ckm.DataName(r.Name, r.Version): r.CKM, ckm.IndexName(r.Name, r.Version): r.Index} {
		st, err := f.h.Stat(ctx, f.file(name))
		if err != nil || st.Kind != host.KindFile || witness(st) != (Witness{w.Size, w.Modified.UTC()}) {
			return false
		}
		if dev, err := f.h.CheckSealed(ctx, f.file(name), acl.Prestaged); err != nil || len(dev) > 0 {
			return false
		}
	}
	return true
}

// writeFile makes path hold data, whole or not at all, sealed.
func (f folders) writeFile(ctx context.Context, path string, data []byte) error {
	_, base := f.h.Split(path)
	partial := f.partial(base)
	err := f.writeAside(ctx, partial, data)
	if err == nil {
		err = f.h.Rename(ctx, partial, path)
	}
	if err != nil {
		f.h.Remove(context.WithoutCancel(ctx), partial)
	}
	return err
}

// writeAside makes partial hold data, sealed and on the disk.
func (f folders) writeAside(ctx context.Context, partial string, data []byte) error {
	if err := f.h.Remove(ctx, partial); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	w, err := f.h.OpenWrite(ctx, partial)
	if err != nil {
		return err
	}
	if _, err = w.WriteAt(data, 0); err == nil {
		err = w.Sync()
	}
	if closeErr := w.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = f.h.Seal(ctx, partial, acl.Prestaged)
	}
	return err
}

// readFile reads a file of at most limit bytes.
func readFile(ctx context.Context, h host.Host, path string, limit int64) ([]byte, error) {
	r, err := h.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.NewSectionReader(r, 0, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%q has more than %d bytes", path, limit)
	}
	return b, err
}
