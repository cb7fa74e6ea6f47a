package prestage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
	"unicode"

	"prestage/ckm"
	"prestage/internal/acl"
	"prestage/internal/host"
	"prestage/internal/repo"
	"prestage/internal/sign"
)

// Status says whether a host is as the procedure leaves it.
type Status struct {
	Location  string          `json:"location"`  // the pre-stage folder
	VMSFolder string          `json:"vmsfolder"` // the image store
	Folders   []FolderStatus  `json:"folders"`
	Packages  []PackageStatus `json:"packages"`
	Stray     []string        `json:"stray"` // what does not belong into the pre-stage folder
	// Unfinished are copies that a push is making, or has left when it was
	// interrupted: the next push of that image goes on with them.
	Unfinished []Unfinished `json:"unfinished"`
}

// Unfinished is a part of a package that no client sees.
type Unfinished struct {
	File string `json:"file"`
	Size int64  `json:"size"` // bytes
}

// FolderStatus tells how a folder deviates from what it should be.
type FolderStatus struct {
	Path       string   `json:"path"`
	Deviations []string `json:"deviations"`
}

// PackageStatus describes a staged package.
type PackageStatus struct {
	Name       string     `json:"name"`
	Version    uint32     `json:"version"`
	FileSize   uint64     `json:"file_size"`      // of the CKM, bytes
	ImageSize  uint64     `json:"image_size"`     // bytes
	Digest     string     `json:"package_digest"` // as its INDEX says
	Sealed     bool       `json:"sealed"`
	Verified   *time.Time `json:"verified"` // when the files as they are now were last verified
	How        string     `json:"how"`      // as in Receipt; "" without a receipt that holds
	Deviations []string   `json:"deviations"`

	Signers []sign.Signer `json:"signers"` // judged by the keys that the machine trusts
}

// OK reports whether nothing deviates.
func (s *Status) OK() bool {
	ok := len(s.Stray) == 0
	for _, f := range s.Folders {
		ok = ok && len(f.Deviations) == 0
	}
	for _, p := range s.Packages {
		ok = ok && len(p.Deviations) == 0
	}
	return ok
}

// GetStatus looks at a host and changes nothing. It reads no more of a package
// than the head of its INDEX and the signatures.
func GetStatus(ctx context.Context, h host.Host) (*Status, error) {
	f, err := configured(ctx, h)
	if err != nil {
		return nil, err
	}
	s, err := h.Settings(ctx)
	if err != nil {
		return nil, err
	}
	st := &Status{Location: f.staged, VMSFolder: s.VMSFolder, Packages: []PackageStatus{}, Stray: []string{}, Unfinished: []Unfinished{}}
	passable := true
	for _, p := range f.parts() {
		dev, err := h.CheckFolder(ctx, p.path, p.rights)
		if errors.Is(err, fs.ErrNotExist) {
			dev = []string{"it does not exist"}
		} else if err != nil {
			dev, passable = []string{err.Error()}, passable && p.path == f.aside
		}
		st.Folders = append(st.Folders, FolderStatus{p.path, append([]string{}, dev...)})
	}
	if !passable { // what is in place of a folder is not looked into
		return st, nil
	}
	files, err := h.ReadDir(ctx, f.staged)
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err != nil {
		return nil, err
	}
	aside, _ := h.ReadDir(ctx, f.aside) // its rights are told above
	for _, file := range aside {
		if name, ok := strings.CutSuffix(file.Name, partialSuffix); ok {
			st.Unfinished = append(st.Unfinished, Unfinished{shown(name), file.Size})
		}
	}
	seen := map[string]bool{}
	for _, file := range files {
		name, version, _, ok := ckm.ParseFileName(file.Name)
		switch image := repo.ImageName(name, version); {
		case !ok && file.Name != AsideFolder:
			st.Stray = append(st.Stray, shown(file.Name))
		case ok && !seen[image]:
			seen[image] = true
			st.Packages = append(st.Packages, f.packageStatus(ctx, name, version))
		}
	}
	return st, nil
}

// shown is the name of a file of which nothing is known, quoted if a terminal
// would take it for more than a name.
func shown(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(name)
	}
	return name
}

func (f folders) packageStatus(ctx context.Context, name string, version uint32) PackageStatus {
	p := PackageStatus{Name: name, Version: version, Sealed: true, Deviations: []string{}, Signers: []sign.Signer{}}
	deviate := func(format string, args ...any) { p.Deviations = append(p.Deviations, fmt.Sprintf(format, args...)) }
	for _, file := range []string{ckm.DataName(name, version), ckm.IndexName(name, version)} {
		dev, err := f.h.CheckSealed(ctx, f.file(file), acl.Prestaged)
		if errors.Is(err, fs.ErrNotExist) {
			dev = []string{"it is missing"}
		} else if err != nil {
			dev = []string{err.Error()}
		}
		for _, d := range dev {
			p.Sealed = false
			deviate("%s: %s", file, d)
		}
	}
	head, signatures, err := f.head(ctx, ckm.IndexName(name, version))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			deviate("%v", err)
		}
		return p
	}
	p.FileSize, p.ImageSize, p.Digest = head.CKMLength, head.ImageSize(), head.Digest.String()
	if st, err := f.h.Stat(ctx, f.file(ckm.DataName(name, version))); err == nil && uint64(st.Size) != head.CKMLength {
		deviate("%s has %d bytes and should have %d", st.Name, st.Size, head.CKMLength)
	}
	if signers, err := f.trust.SignersOf(head, signatures); err == nil {
		p.Signers = signers
	}
	if err := f.trust.CheckHead(head, signatures); err != nil {
		deviate("%v", err)
	}
	if r := f.readReceipt(ctx, name, version); f.witnessed(ctx, r, head.Digest) {
		if p.How = r.How; strength[p.How] > strength[HowNone] {
			p.Verified = &r.Verified
		}
	} else {
		deviate("it was not verified since it was last changed; run \"prestage verify\"")
	}
	return p
}

// head reads the head of an INDEX, and its signature block.
func (f folders) head(ctx context.Context, file string) (*ckm.Head, []byte, error) {
	r, err := f.h.Open(ctx, f.file(file))
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	return repo.ReadHeadAndSignatures(r)
}
