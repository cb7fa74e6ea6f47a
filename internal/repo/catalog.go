package repo

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"prestage/ckm"
)

// CatalogName is the file beside the packages that tells clients of a static
// web server what is there.
const CatalogName = "catalog.json"

// maxCatalog is the largest catalog that is read, in bytes.
const maxCatalog = 16 << 20

// Entry describes a package.
type Entry struct {
	Name          string    `json:"name"`
	Version       uint32    `json:"version"`
	Created       time.Time `json:"created"`
	FileSize      uint64    `json:"file_size"`  // of the CKM, compressed, bytes
	ImageSize     uint64    `json:"image_size"` // uncompressed, bytes
	PackageDigest string    `json:"package_digest"`
	Index         string    `json:"index"`
	IndexSize     uint64    `json:"index_size"` // bytes
	CKM           string    `json:"ckm"`
	// SignedBy are the IDs of the keys that the package says it is signed by,
	// which nobody has checked.
	SignedBy []string `json:"signed_by,omitempty"`
}

// Catalog is the content of catalog.json.
type Catalog struct {
	Format int     `json:"format"`
	Images []Entry `json:"images"`
	// LastVersions are the highest versions ever packed here, so that a version
	// that was removed is never made again with other content.
	LastVersions map[string]uint32 `json:"last_versions,omitempty"`
}

// lastSecond is the end of the year 9999, after which JSON has no times.
const lastSecond = 253402300799

// NewEntry describes the package with the given head and INDEX size.
func NewEntry(info *ckm.Info, digest ckm.Digest, indexSize uint64) Entry {
	return Entry{
		Name: info.Name, Version: info.Version, Created: time.Unix(min(info.Created, lastSecond), 0).UTC(),
		FileSize: info.CKMLength, ImageSize: info.ImageSize(), PackageDigest: digest.String(),
		Index: ckm.IndexName(info.Name, info.Version), IndexSize: indexSize, CKM: ckm.DataName(info.Name, info.Version),
	}
}

// ParseCatalog reads and checks a catalog. The error wraps ckm.ErrFormat or
// ckm.ErrUnsupported.
func ParseCatalog(p []byte) (*Catalog, error) {
	var c Catalog
	if len(p) > maxCatalog {
		return nil, fmt.Errorf("catalog: %w: %d bytes, the limit is %d", ckm.ErrFormat, len(p), maxCatalog)
	}
	if err := json.Unmarshal(p, &c); err != nil {
		return nil, fmt.Errorf("catalog: %w: %v", ckm.ErrFormat, err)
	}
	if c.Format != 1 {
		return nil, fmt.Errorf("catalog: %w: format %d", ckm.ErrUnsupported, c.Format)
	}
	for i, e := range c.Images {
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("catalog: %w: %v", ckm.ErrFormat, err)
		}
		if i > 0 && compareEntries(c.Images[i-1], e) >= 0 {
			return nil, fmt.Errorf("catalog: %w: its images are out of order", ckm.ErrFormat)
		}
	}
	for name, version := range c.LastVersions {
		if !isVersion(name, version) {
			return nil, fmt.Errorf("catalog: %w: last version of image %q", ckm.ErrFormat, name)
		}
	}
	return &c, nil
}

// check refuses an entry that could lead to any other file than its own.
func (e *Entry) check() error {
	if err := ckm.CheckName(e.Name); err != nil {
		return err
	}
	if !isVersion(e.Name, e.Version) || e.Index != ckm.IndexName(e.Name, e.Version) || e.CKM != ckm.DataName(e.Name, e.Version) {
		return fmt.Errorf("version or file names of image %q", e.Name)
	}
	if d, err := hex.DecodeString(e.PackageDigest); err != nil || len(d) != len(ckm.Digest{}) {
		return fmt.Errorf("package digest of image %q", e.Name)
	}
	if e.IndexSize > ckm.MaxIndexSize || e.ImageSize > ckm.MaxImageSize || e.FileSize > 1<<62 {
		return fmt.Errorf("sizes of image %q", e.Name)
	}
	for _, id := range e.SignedBy {
		if b, err := hex.DecodeString(id); err != nil || len(b) != 8 {
			return fmt.Errorf("keys of image %q", e.Name)
		}
	}
	return nil
}

// isVersion reports whether an image can have that name and version.
func isVersion(name string, version uint32) bool {
	_, _, _, ok := ckm.ParseFileName(ckm.IndexName(name, version))
	return ok
}

func compareEntries(a, b Entry) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version))
}

// Encode returns the bytes of catalog.json.
func (c *Catalog) Encode() []byte {
	if c.Images == nil {
		c.Images = []Entry{} // a list is one when it is empty, not null
	}
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		panic(err) // plain data
	}
	return append(b, '\n')
}
