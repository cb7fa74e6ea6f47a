package msrpc

import (
	"fmt"
	"io/fs"
	"unicode/utf16"
)

// Code is a Windows error code (MS-ERREF 2.2).
type Code uint32

// Codes that are told apart.
const (
	codeFileNotFound      Code = 2
	codeAccessDenied      Code = 5
	codeMoreData          Code = 234
	codeKeyDeleted        Code = 1018
	codeServiceDisabled   Code = 1058
	codeAlreadyRunning    Code = 1056
	codeNoSuchService     Code = 1060
	codeServiceNotStarted Code = 1062
)

// Error implements error.
func (c Code) Error() string {
	text := map[Code]string{codeFileNotFound: "it does not exist", codeAccessDenied: "access is denied", codeMoreData: "it is too long", codeKeyDeleted: "the key was deleted",
		codeServiceDisabled: "the service is disabled", codeAlreadyRunning: "the service runs already",
		codeNoSuchService: "there is no such service", codeServiceNotStarted: "the service does not run"}[c]
	if text == "" {
		return fmt.Sprintf("Windows error %d", uint32(c))
	}
	return text
}

// Is makes codes comparable with the errors of package fs.
func (c Code) Is(target error) bool {
	return c == codeFileNotFound && target == fs.ErrNotExist || c == codeAccessDenied && target == fs.ErrPermission
}

// handle is a context handle (C706 14.2.16.6).
type handle [20]byte

// writer encodes parameters in NDR (C706, chapter 14).
type writer struct {
	b    []byte
	refs uint32
}

func (w *writer) align(n int) {
	for len(w.b)%n != 0 {
		w.b = append(w.b, 0)
	}
}

func (w *writer) uint16(v uint16) { w.align(2); w.b = le.AppendUint16(w.b, v) }
func (w *writer) uint32(v uint32) { w.align(4); w.b = le.AppendUint32(w.b, v) }
func (w *writer) handle(h handle) { w.b = append(w.b, h[:]...) }
func (w *writer) null()           { w.uint32(0) }

// pointer says that what is pointed to follows.
func (w *writer) pointer() {
	w.refs++
	w.uint32(0x20000 + 4*w.refs)
}

// text encodes a zero-terminated string as a conformant and varying array.
func (w *writer) text(s string) {
	units := append(utf16.Encode([]rune(s)), 0)
	w.uint32(uint32(len(units)))
	w.uint32(0)
	w.uint32(uint32(len(units)))
	for _, u := range units {
		w.b = le.AppendUint16(w.b, u)
	}
	w.align(4)
}

// name encodes an RPC_UNICODE_STRING, whose lengths count the zero at the end
// (MS-RRP 2.2.4).
func (w *writer) name(s string) {
	n := uint16(2 * (len(utf16.Encode([]rune(s))) + 1))
	w.align(4)
	w.uint16(n)
	w.uint16(n)
	w.pointer()
	w.text(s)
}

// reader decodes results. The first error stays.
type reader struct {
	b   []byte
	at  int
	err error
}

func (r *reader) bytes(n int) []byte {
	if r.err == nil && (n < 0 || n > len(r.b)-r.at) {
		r.err = fmt.Errorf("%w: a result is cut", ErrProtocol)
	}
	if r.err != nil {
		return nil
	}
	r.at += n
	return r.b[r.at-n : r.at]
}

func (r *reader) uint32() uint32 {
	if pad := -r.at & 3; pad > 0 {
		r.bytes(pad)
	}
	if p := r.bytes(4); p != nil {
		return le.Uint32(p)
	}
	return 0
}

func (r *reader) handle() (h handle) {
	copy(h[:], r.bytes(len(h)))
	return h
}

// code reads the code that ends every result.
func (r *reader) code() error {
	c := Code(r.uint32())
	if r.err != nil {
		return r.err
	}
	if c != 0 {
		return c
	}
	return nil
}
