package settings

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
)

// The keys of the settings in HKEY_LOCAL_MACHINE, as a 32-bit program sees it:
// on 64-bit Windows that is SOFTWARE\WOW6432Node for SOFTWARE, but for Policies,
// which all programs share.
const (
	canonicalKey = `SOFTWARE\Kidaro`
	policyKey    = `SOFTWARE\Policies\Kidaro`
	// literalKey is where the text of MED-V has the value on 64-bit Windows,
	// without the key Kidaro: a machine set up to the letter has it there.
	literalKey = `SOFTWARE`
)

// The names of the values.
const (
	pathName    = "PrestagedImagesPath"
	storeName   = "VMSFolder"
	addressName = "ServerAddress"
	portName    = "ServerPort"
	sslName     = "ServerSsl"
	imagesName  = "Images"
	profileName = "AclProfile"
	updateName  = "UpdateFromPrestaged"
	seedsName   = "SeedFolders"
	hookName    = "UpdateHook"
	trustName   = "TrustedKeys"
)

// The types of registry values that are read (winnt.h).
const (
	regSZ       = 1
	regExpandSZ = 2
	regDWord    = 4
	regMultiSZ  = 7
)

// A Hive is HKEY_LOCAL_MACHINE of a machine, as a 32-bit program sees it. Errors
// about values and keys that are not there wrap fs.ErrNotExist.
type Hive interface {
	Get(key, name string) (kind uint32, data []byte, err error)
	SetText(key, name, value string) error
	SetTexts(key, name string, values []string) error
	SetNumber(key, name string, value uint32) error
	// Expand replaces %NAME% by environment variables of the machine.
	Expand(s string) (string, error)
	// Is64Bit reports whether the machine's Windows is a 64-bit one.
	Is64Bit() bool
}

// Registry returns the Keeper of a Windows machine's settings.
func Registry(h Hive) Keeper { return registry{h} }

type registry struct{ h Hive }

// String implements Keeper.
func (r registry) String() string { return r.show(canonicalKey, "") }

// show names a value as people look it up, in the view of 64-bit programs.
func (r registry) show(key, name string) string {
	if rest, ok := strings.CutPrefix(key, "SOFTWARE"); ok && r.h.Is64Bit() && key != policyKey {
		key = `SOFTWARE\WOW6432Node` + rest
	}
	if name != "" {
		name = `\` + name
	}
	return `HKLM\` + key + name
}

// value is a registry value and where it was found.
type value struct {
	kind  uint32
	data  []byte
	where string
}

// find returns the value of a setting: the one that group policy sets, or else
// the canonical one, or else, for the path alone, the literal one.
func (r registry) find(name string) (*value, error) {
	keys := []string{policyKey, canonicalKey}
	if name == pathName && r.h.Is64Bit() {
		keys = append(keys, literalKey)
	}
	for _, key := range keys {
		kind, data, err := r.h.Get(key, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", r.show(key, name), err)
		}
		return &value{kind, data, r.show(key, name)}, nil
	}
	return nil, nil
}

// Load implements Keeper.
func (r registry) Load() (s Settings, err error) {
	var bad []error
	read := func(field, name string, use func(v *value) error) {
		v, e := r.find(name)
		if e == nil && v != nil {
			if e = use(v); e != nil {
				e = &ValueError{field, v.where, e}
			}
		}
		if e != nil {
			bad = append(bad, e)
		}
	}
	path := func(into *string) func(v *value) error {
		return func(v *value) error {
			t, err := r.text(v)
			if err == nil && t != "" {
				*into, err = cleanPath(t, v.kind)
			}
			return err
		}
	}
	read("VMSFolder", storeName, path(&s.VMSFolder))
	read("ACLProfile", profileName, func(v *value) (err error) {
		if s.ACLProfile, err = r.text(v); err == nil {
			err = checkProfile(s.ACLProfile)
		}
		return err
	})
	read("Images", imagesName, func(v *value) (err error) {
		s.Images, err = r.texts(v)
		return err
	})
	read("TrustedKeys", trustName, func(v *value) (err error) {
		if s.TrustedKeys, err = r.texts(v); err == nil {
			_, err = s.Trust()
		}
		if err != nil {
			s.TrustedKeys = nil
			err = fmt.Errorf("holds what is no list of public keys: %w", err)
		}
		return err
	})
	read("UpdateFromPrestaged", updateName, func(v *value) error {
		n, err := r.number(v)
		if err == nil && n > 1 {
			err = fmt.Errorf("is %d and must be 1 (yes) or 0 (no)", n)
		}
		s.UpdateFromPrestaged = err == nil && n == 1
		return err
	})
	read("UpdateHook", hookName, path(&s.UpdateHook))
	read("SeedFolders", seedsName, func(v *value) (err error) {
		s.SeedFolders, err = r.texts(v)
		return err
	})
	var (
		address string
		port    uint64
		ssl     bool
	)
	read("Server", addressName, func(v *value) (err error) {
		address, err = r.text(v)
		return err
	})
	read("Server", portName, func(v *value) (err error) {
		if port, err = r.number(v); err == nil && (port == 0 || port > 65535) {
			err = fmt.Errorf("is %d and must be a port, 1 to 65535", port)
		}
		return err
	})
	read("Server", sslName, func(v *value) error {
		n, err := r.number(v)
		if err == nil && n > 1 {
			err = fmt.Errorf("is %d and must be 1 (https) or 0 (http)", n)
		}
		ssl = n == 1
		return err
	})
	read("Server", addressName, func(*value) (err error) {
		s.Server, err = serverURL(address, port, ssl)
		return err
	})
	// The path last: that it is bad is something that relocate can mend, so
	// nothing else may be.
	read("PrestagedImagesPath", pathName, path(&s.PrestagedImagesPath))
	if len(bad) > 0 {
		return s, bad[0]
	}
	return s, nil
}

// Save implements Keeper.
func (r registry) Save(s Settings) error {
	for _, p := range []*string{&s.PrestagedImagesPath, &s.VMSFolder} {
		if *p == "" {
			continue
		}
		clean, err := cleanPath(*p, regSZ)
		if err != nil {
			return fmt.Errorf("the path %w", err)
		}
		*p = clean
	}
	if err := checkProfile(s.ACLProfile); err != nil {
		return fmt.Errorf("the ACL profile %w", err)
	}
	for name, text := range map[string]string{pathName: s.PrestagedImagesPath, storeName: s.VMSFolder, profileName: s.ACLProfile} {
		if text == "" {
			continue
		}
		if err := r.set(name, func(key string) error { return r.h.SetText(key, name, text) }); err != nil {
			return err
		}
	}
	if _, err := s.Trust(); err != nil {
		return err
	}
	for name, list := range map[string][]string{imagesName: s.Images, trustName: s.TrustedKeys} {
		if len(list) == 0 {
			continue
		}
		if err := r.set(name, func(key string) error { return r.h.SetTexts(key, name, list) }); err != nil {
			return err
		}
	}
	if s.Server == "" {
		return nil
	}
	address, port, ssl := SplitServer(s.Server)
	if port == 0 { // it cannot be said by the three values: the URL stands alone
		return r.set(addressName, func(key string) error { return r.h.SetText(key, addressName, s.Server) })
	}
	if err := r.set(portName, func(key string) error { return r.h.SetNumber(key, portName, uint32(port)) }); err != nil {
		return err
	}
	if err := r.set(sslName, func(key string) error { return r.h.SetNumber(key, sslName, ssl) }); err != nil {
		return err
	}
	return r.set(addressName, func(key string) error { return r.h.SetText(key, addressName, address) })
}

// set writes a value to the canonical key, and the path to the literal one as
// well where that has it.
func (r registry) set(name string, write func(key string) error) error {
	if _, _, err := r.h.Get(policyKey, name); err == nil {
		return fmt.Errorf("group policy sets %s; change it there", r.show(policyKey, name))
	}
	keys := []string{canonicalKey}
	if name == pathName && r.h.Is64Bit() {
		if _, _, err := r.h.Get(literalKey, name); err == nil {
			keys = append(keys, literalKey)
		}
	}
	for _, key := range keys {
		err := write(key)
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w: only an administrator of the machine may", err)
		}
		if err != nil {
			return fmt.Errorf("writing %s: %w", r.show(key, name), err)
		}
	}
	return nil
}

var errEncoding = errors.New("is not valid UTF-16 text; set it again")

func decode(data []byte) (string, error) {
	if len(data)%2 != 0 {
		return "", errEncoding
	}
	var units []uint16
	for i := 0; i < len(data); i += 2 {
		units = append(units, binary.LittleEndian.Uint16(data[i:]))
	}
	s := string(utf16.Decode(units))
	if strings.ContainsRune(s, '\ufffd') {
		return "", errEncoding
	}
	return s, nil
}

// text reads a REG_SZ or REG_EXPAND_SZ. Values may end with a zero or not.
func (r registry) text(v *value) (string, error) {
	if v.kind != regSZ && v.kind != regExpandSZ {
		return "", fmt.Errorf("is of type %s and must be a REG_SZ", kindName(v.kind))
	}
	s, err := decode(v.data)
	if err != nil {
		return "", err
	}
	s = strings.TrimRight(s, "\x00")
	if strings.ContainsRune(s, 0) {
		return "", errors.New("holds several texts and must be one")
	}
	if v.kind == regExpandSZ {
		if s, err = r.h.Expand(s); err != nil {
			return "", err
		}
		if _, rest, found := strings.Cut(s, "%"); found {
			if name, _, found := strings.Cut(rest, "%"); found {
				return "", fmt.Errorf("is %q, but there is no environment variable %s", s, name)
			}
		}
	}
	return s, nil
}

// texts reads a REG_MULTI_SZ; a REG_SZ stands for a list of one.
func (r registry) texts(v *value) ([]string, error) {
	if v.kind != regMultiSZ {
		s, err := r.text(v)
		if err != nil || s == "" {
			return nil, err
		}
		return []string{s}, nil
	}
	s, err := decode(v.data)
	if err != nil {
		return nil, err
	}
	list := strings.Split(s, "\x00")
	return slices.DeleteFunc(list, func(s string) bool { return s == "" }), nil
}

// number reads a REG_DWORD, or a REG_SZ that holds a number.
func (r registry) number(v *value) (uint64, error) {
	if v.kind == regDWord && len(v.data) == 4 {
		return uint64(binary.LittleEndian.Uint32(v.data)), nil
	}
	if v.kind != regSZ {
		return 0, fmt.Errorf("is of type %s and must be a REG_DWORD", kindName(v.kind))
	}
	s, err := r.text(v)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("is %q and must be a number", s)
	}
	return n, nil
}

func kindName(kind uint32) string {
	names := []string{"REG_NONE", "REG_SZ", "REG_EXPAND_SZ", "REG_BINARY", "REG_DWORD", "REG_DWORD_BIG_ENDIAN",
		"REG_LINK", "REG_MULTI_SZ", "REG_RESOURCE_LIST", "REG_FULL_RESOURCE_DESCRIPTOR", "REG_RESOURCE_REQUIREMENTS_LIST", "REG_QWORD"}
	if int(kind) < len(names) {
		return names[kind]
	}
	return strconv.FormatUint(uint64(kind), 10)
}

// serverPath is the alias of the folder of packages on an image server.
const serverPath = "/MEDVImages/"

// serverURL makes the default repository of a server's address, port (0: the
// usual one) and SSL. An address that is a URL or a folder stands by itself.
func serverURL(address string, port uint64, ssl bool) (string, error) {
	if address == "" {
		return "", nil
	}
	if _, err := cleanPath(address, regSZ); err == nil || strings.Contains(address, "://") {
		return address, nil
	}
	if strings.Count(address, ":") == 1 {
		return "", fmt.Errorf("is %q and must be the name or address of a server without a port, which is a value of its own", address)
	}
	host := address
	if strings.Count(address, ":") > 1 { // IPv6
		host = "[" + strings.Trim(address, "[]") + "]"
	}
	u := url.URL{Scheme: "http", Host: host, Path: serverPath}
	if ssl {
		u.Scheme = "https"
	}
	if port != 0 && port != defaultPort(u.Scheme) {
		u.Host = fmt.Sprintf("%s:%d", host, port)
	}
	if again, err := url.Parse(u.String()); err != nil || again.Host != u.Host || again.Path != serverPath ||
		strings.ContainsAny(address, " \t\"'\\") {
		return "", fmt.Errorf("is %q and must be the name or address of a server, or a URL", address)
	}
	return u.String(), nil
}

func defaultPort(scheme string) uint64 {
	if scheme == "https" {
		return 443
	}
	return 80
}

// SplitServer splits the URL of an image server into what MED-V's settings say
// of it; ssl is 1 for https. The port is 0 when they cannot say it.
func SplitServer(server string) (address string, port uint16, ssl uint32) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
		u.RawQuery != "" || u.Fragment != "" || strings.TrimSuffix(u.Path, "/")+"/" != serverPath {
		return "", 0, 0
	}
	n := defaultPort(u.Scheme)
	if p := u.Port(); p != "" {
		if n, err = strconv.ParseUint(p, 10, 16); err != nil {
			return "", 0, 0
		}
	}
	if u.Scheme == "https" {
		ssl = 1
	}
	return u.Hostname(), uint16(n), ssl
}
