package fsmap

import "io"

// signatures are what volumes have at their starts that say nothing of their files:
// encrypted ones, parts of a larger disk, file systems that are not known.
var signatures = []struct {
	offset int64
	magic  string
	name   string
}{
	{0, "LUKS\xba\xbe", "a LUKS volume"},
	{3, "-FVE-FS-", "a BitLocker volume"},
	{3, "MSWIN4.1\x00-FVE", "a BitLocker volume"},
	{0, "\xfc\x4e\x2b\xa9", "a part of a RAID"},
	{4096, "\xfc\x4e\x2b\xa9", "a part of a RAID"},
	{32, "NXSB", "an APFS volume"},
	{3, "ReFS\x00", "a ReFS volume"},
	{1024, "\x10\x20\xf5\xf2", "an F2FS volume"},
	{1024, "H+\x00\x04", "an HFS+ volume"},
	{1024, "HX\x00\x05", "an HFS+ volume"},
	{4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "a bcache volume"},
	{0, "hsqs", "a SquashFS volume"},
	{32769, "CD001", "an ISO 9660 volume"},
}

// opaque names what a volume is, if it is one whose bytes say nothing.
func opaque(r io.ReaderAt, size int64) (string, error) {
	head := make([]byte, min(size, 36<<10))
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return "", err
	}
	for _, s := range signatures {
		if end := s.offset + int64(len(s.magic)); end <= int64(len(head)) && string(head[s.offset:end]) == s.magic {
			return s.name, nil
		}
	}
	return "", nil
}
