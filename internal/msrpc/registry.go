package msrpc

import (
	"fmt"
	"strings"
	"unicode/utf16"
)

// winreg is 338cd001-2244-31f1-aaaa-900038001003, version 1.0 (MS-RRP 1.9).
var winreg = uuid{0x01, 0xd0, 0x8c, 0x33, 0x44, 0x22, 0xf1, 0x31, 0xaa, 0xaa, 0x90, 0x00, 0x38, 0x00, 0x10, 0x03}

// RegistryPipe is the name of the remote registry's pipe.
const RegistryPipe = "winreg"

// Operations of the remote registry (MS-RRP 3.1.5).
const (
	opOpenLocalMachine = 2
	opCloseKey         = 5
	opCreateKey        = 6
	opOpenKey          = 15
	opQueryValue       = 17
	opSetValue         = 22
)

// Rights that keys are opened with (MS-RRP 2.2.3).
const (
	keyQueryValue = 0x1
	keySetValue   = 0x2
	keyMaximum    = 0x02000000
)

// Types of values (MS-RRP 3.1.1.5).
const (
	TypeText   = 1 // REG_SZ
	TypeNumber = 4 // REG_DWORD
	TypeTexts  = 7 // REG_MULTI_SZ
)

// maxValue is the largest value that is read, in bytes.
const maxValue = 1 << 20

// Registry is HKEY_LOCAL_MACHINE of another machine. Keys are named as 64-bit
// programs see them. Errors about what is not there wrap fs.ErrNotExist, about
// what is not allowed fs.ErrPermission.
type Registry struct {
	c    *conn
	root handle
	// keys are open to be read until the pipe is closed: on a distant machine
	// each call takes long, and a key has several values.
	keys map[string]handle
}

// OpenRegistry opens the registry on a machine's pipe RegistryPipe.
func OpenRegistry(p Pipe) (*Registry, error) {
	c, err := bind(p, winreg, 1)
	if err != nil {
		return nil, fmt.Errorf("remote registry: %w", err)
	}
	var w writer
	w.null()
	w.uint32(keyMaximum)
	r, err := c.invoke(opOpenLocalMachine, w.b)
	if err == nil {
		root := r.handle()
		if err = r.code(); err == nil {
			return &Registry{c, root, map[string]handle{}}, nil
		}
	}
	c.close()
	return nil, fmt.Errorf("opening the remote registry: %w", err)
}

// Close closes the pipe.
func (g *Registry) Close() error { return g.c.close() }

// open opens a key to be read, or to be written and created if need be.
func (g *Registry) open(key string, create bool) (h handle, err error) {
	var w writer
	w.handle(g.root)
	w.name(key)
	operation := uint16(opOpenKey)
	if create {
		operation = opCreateKey
		w.name("") // class
		w.uint32(0)
		w.uint32(keyQueryValue | keySetValue)
		w.null() // security: inherited
		w.pointer()
		w.uint32(0) // disposition
	} else {
		w.uint32(0)
		w.uint32(keyQueryValue)
	}
	r, err := g.c.invoke(operation, w.b)
	if err != nil {
		return h, err
	}
	h = r.handle()
	if create && r.uint32() != 0 {
		r.uint32()
	}
	return h, r.code()
}

// Get reads a value.
func (g *Registry) Get(key, name string) (kind uint32, data []byte, err error) {
	h, known := g.keys[key]
	if !known {
		if h, err = g.open(key, false); err != nil {
			return 0, nil, err
		}
		g.keys[key] = h
	}
	for room := uint32(4 << 10); ; room *= 16 {
		kind, data, err = g.query(h, name, room)
		if err != error(codeMoreData) || room >= maxValue {
			break
		}
	}
	if err == error(codeKeyDeleted) { // and may be there anew
		delete(g.keys, key)
		if known {
			return g.Get(key, name)
		}
		err = codeFileNotFound
	}
	return kind, data, err
}

func (g *Registry) query(h handle, name string, room uint32) (kind uint32, data []byte, err error) {
	var w writer
	w.handle(h)
	w.name(name)
	w.pointer()
	w.uint32(0) // type
	w.pointer()
	w.uint32(room) // of data, none of which is sent
	w.uint32(0)
	w.uint32(0)
	w.pointer()
	w.uint32(room)
	w.pointer()
	w.uint32(0) // length
	r, err := g.c.invoke(opQueryValue, w.b)
	if err != nil {
		return 0, nil, err
	}
	if r.uint32() != 0 {
		kind = r.uint32()
	}
	if r.uint32() != 0 {
		r.uint32()
		r.uint32()
		data = r.bytes(int(min(r.uint32(), maxReply)))
	}
	for range 2 { // room and length
		if r.uint32() != 0 {
			r.uint32()
		}
	}
	return kind, data, r.code()
}

// Set writes a value, in a key that is created if need be.
func (g *Registry) Set(key, name string, kind uint32, data []byte) error {
	h, err := g.open(key, true)
	if err != nil {
		return err
	}
	var w writer
	w.handle(h)
	w.name(name)
	w.uint32(kind)
	w.uint32(uint32(len(data)))
	w.b = append(w.b, data...)
	w.uint32(uint32(len(data)))
	r, err := g.c.invoke(opSetValue, w.b)
	if err == nil {
		err = r.code()
	}
	if _, closeErr := g.c.invoke(opCloseKey, h[:]); err == nil {
		err = closeErr
	}
	return err
}

// Text encodes a value of TypeText.
func Text(s string) (b []byte) {
	for _, u := range utf16.Encode([]rune(s + "\x00")) {
		b = le.AppendUint16(b, u)
	}
	return b
}

// Texts encodes a value of TypeTexts.
func Texts(list []string) []byte {
	if len(list) == 0 {
		return Text("")
	}
	return Text(strings.Join(list, "\x00") + "\x00")
}

// Number encodes a value of TypeNumber.
func Number(n uint32) []byte { return le.AppendUint32(nil, n) }

// ParseText decodes a value of TypeText up to its zero.
func ParseText(b []byte) string {
	var units []uint16
	for ; len(b) > 1; b = b[2:] {
		u := le.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}
