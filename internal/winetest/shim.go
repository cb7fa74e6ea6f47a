//go:build linux

package winetest

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
)

// forwarder returns bcryptprimitives.dll, which Go programs need to start and
// Wine 8 does not have. Its one function, ProcessPrng, is advapi32's
// SystemFunction036, which every Wine has: both fill a buffer with random
// bytes. The file has no code, only an export table that says so.
func forwarder() []byte {
	const (
		headers = 0x200  // where the section starts in the file
		section = 0x1000 // where it starts in memory
		size    = 0x200  // of the section in the file

		functions, names, ordinals = 0x28, 0x2c, 0x30 // each a table of one
		dll, function, target      = 0x40, 0x60, 0x80 // strings
	)
	le := binary.LittleEndian

	exports := make([]byte, size)
	le.PutUint32(exports[0x0c:], section+dll)
	le.PutUint32(exports[0x10:], 1) // the first ordinal
	le.PutUint32(exports[0x14:], 1) // functions
	le.PutUint32(exports[0x18:], 1) // names
	le.PutUint32(exports[0x1c:], section+functions)
	le.PutUint32(exports[0x20:], section+names)
	le.PutUint32(exports[0x24:], section+ordinals)
	// An address within the export table means: this is another DLL's function.
	le.PutUint32(exports[functions:], section+target)
	le.PutUint32(exports[names:], section+function)
	copy(exports[dll:], "bcryptprimitives.dll")
	copy(exports[function:], "ProcessPrng")
	copy(exports[target:], "advapi32.SystemFunction036")

	dos := make([]byte, 0x40)
	copy(dos, "MZ")
	le.PutUint32(dos[0x3c:], uint32(len(dos))) // where the rest starts

	optional := pe.OptionalHeader64{
		Magic: 0x20b, SizeOfInitializedData: size,
		ImageBase: 0x180000000, SectionAlignment: section, FileAlignment: headers,
		MajorOperatingSystemVersion: 6, MajorSubsystemVersion: 6,
		SizeOfImage: 2 * section, SizeOfHeaders: headers,
		Subsystem: pe.IMAGE_SUBSYSTEM_WINDOWS_CUI, DllCharacteristics: pe.IMAGE_DLLCHARACTERISTICS_NX_COMPAT,
		SizeOfStackReserve: 1 << 20, SizeOfStackCommit: 1 << 12, SizeOfHeapReserve: 1 << 20, SizeOfHeapCommit: 1 << 12,
		NumberOfRvaAndSizes: 16,
	}
	optional.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_EXPORT] = pe.DataDirectory{VirtualAddress: section, Size: 0x100}

	var b bytes.Buffer
	b.Write(dos)
	b.WriteString("PE\x00\x00")
	for _, part := range []any{
		pe.FileHeader{
			Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: 1, SizeOfOptionalHeader: uint16(binary.Size(optional)),
			Characteristics: pe.IMAGE_FILE_EXECUTABLE_IMAGE | pe.IMAGE_FILE_LARGE_ADDRESS_AWARE | pe.IMAGE_FILE_DLL,
		},
		optional,
		pe.SectionHeader32{
			Name: [8]uint8{'.', 'e', 'd', 'a', 't', 'a'}, VirtualSize: size, VirtualAddress: section,
			SizeOfRawData: size, PointerToRawData: headers,
			Characteristics: pe.IMAGE_SCN_CNT_INITIALIZED_DATA | pe.IMAGE_SCN_MEM_READ,
		},
	} {
		// To write numbers to memory cannot fail.
		_ = binary.Write(&b, le, part)
	}
	b.Write(make([]byte, headers-b.Len()))
	b.Write(exports)
	return b.Bytes()
}
