package repo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"

	"prestage/ckm"
	"prestage/internal/durable"
)

// Sign has sign add a signature to the INDEX of a package that is there already. The
// INDEX is replaced whole, by one that differs in nothing else; the CKM is not
// touched. With a CatalogError, the package is signed all the same.
func (r *Folder) Sign(ctx context.Context, name string, version uint32, sign func(x *ckm.Index) error) (*ckm.Index, error) {
	unlock, err := r.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	x, err := r.sign(ctx, name, version, sign)
	if err != nil {
		return nil, err
	}
	// In any case: who was killed may not have got so far.
	if err := r.writeCatalog(context.WithoutCancel(ctx), r.usedVersions()); err != nil {
		return x, CatalogError{err}
	}
	return x, nil
}

// sign is Sign for one who holds the lock, and writes the catalog.
func (r *Folder) sign(ctx context.Context, name string, version uint32, sign func(x *ckm.Index) error) (*ckm.Index, error) {
	before, err := r.Index(ctx, name, version)
	if err != nil {
		return nil, err
	}
	x, err := DecodeIndex(r, before, name, version)
	if err != nil {
		return nil, err
	}
	path := r.Path(ckm.IndexName(name, version))
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	after, err := signed(x, sign)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(after, before) {
		return x, nil
	}
	return x, durable.WriteFile(path, after, st.Mode().Perm())
}

// addSignatures adds to a package those signatures of block that are by other keys
// than it is signed by.
func (r *Folder) addSignatures(ctx context.Context, name string, version uint32, block []byte) error {
	list, err := ckm.ParseSignatures(block)
	if err != nil || len(list) == 0 {
		return err
	}
	_, err = r.sign(ctx, name, version, func(x *ckm.Index) error {
		known := KeyIDs(x.Signatures)
		for _, s := range list {
			if slices.Contains(known, s.Key.String()) {
				continue
			}
			if x.Signatures, err = ckm.AddSignature(x.Signatures, s); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// signed returns the INDEX of x, which was encoded or decoded, with a signature.
func signed(x *ckm.Index, sign func(x *ckm.Index) error) ([]byte, error) {
	digest := x.Digest()
	if err := sign(x); err != nil {
		return nil, err
	}
	encoded, err := x.Encode()
	if err == nil && x.Digest() != digest {
		err = fmt.Errorf("signing %s has changed it; this is an error of the program", ImageName(x.Name, x.Version))
	}
	return encoded, err
}

// ReadHeadAndSignatures is ReadHead that reads the signature block as well.
func ReadHeadAndSignatures(r io.ReaderAt) (*ckm.Head, []byte, error) {
	h, err := ReadHead(bufio.NewReader(io.NewSectionReader(r, 0, ckm.MaxIndexSize)))
	if err != nil {
		return nil, nil, err
	}
	block, err := readSignatures(r, h)
	return h, block, err
}

// readSignatures reads the signature block of an INDEX with the head h. That it
// is what the INDEX's file digest says is not checked: signatures are checked by
// their keys. The error wraps ckm.ErrFormat.
func readSignatures(r io.ReaderAt, h *ckm.Head) ([]byte, error) {
	var length [4]byte
	if _, err := r.ReadAt(length[:], h.PagesEnd()); isCut(err) {
		return nil, fmt.Errorf("%w: the INDEX is cut short", ckm.ErrFormat)
	} else if err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(length[:])
	if n > ckm.MaxSignatureBlock {
		return nil, fmt.Errorf("%w: signature block of %d bytes", ckm.ErrFormat, n)
	}
	block := make([]byte, n)
	if _, err := r.ReadAt(block, h.PagesEnd()+int64(len(length))); isCut(err) && n > 0 {
		return nil, fmt.Errorf("%w: the INDEX is cut short", ckm.ErrFormat)
	} else if err != nil && n > 0 {
		return nil, err
	}
	return block, nil
}

// KeyIDs returns the IDs of the keys that a signature block names; of one that is
// damaged, none.
func KeyIDs(block []byte) (ids []string) {
	list, _ := ckm.ParseSignatures(block)
	for _, s := range list {
		ids = append(ids, s.Key.String())
	}
	return ids
}
