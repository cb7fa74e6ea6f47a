package settings

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/windows"
	winreg "golang.org/x/sys/windows/registry"
)

func defaultKeeper() Keeper { return Registry(localHive{}) }

// localHive is this machine's registry.
type localHive struct{}

// Get implements Hive.
func (localHive) Get(key, name string) (kind uint32, data []byte, err error) {
	k, err := winreg.OpenKey(winreg.LOCAL_MACHINE, key, winreg.QUERY_VALUE|winreg.WOW64_32KEY)
	if err != nil {
		return 0, nil, err
	}
	defer k.Close()
	for buf := make([]byte, 256); ; buf = make([]byte, 2*len(buf)) {
		n, kind, err := k.GetValue(name, buf)
		if errors.Is(err, winreg.ErrShortBuffer) && len(buf) < maxValue {
			continue
		}
		if err != nil {
			return 0, nil, err
		}
		return kind, buf[:n], nil
	}
}

// maxValue is the largest value that is read, in bytes.
const maxValue = 1 << 20

func change(key string, do func(k winreg.Key) error) error {
	k, _, err := winreg.CreateKey(winreg.LOCAL_MACHINE, key, winreg.SET_VALUE|winreg.WOW64_32KEY)
	if err != nil {
		return err
	}
	defer k.Close()
	return do(k)
}

// SetText implements Hive.
func (localHive) SetText(key, name, value string) error {
	return change(key, func(k winreg.Key) error { return k.SetStringValue(name, value) })
}

// SetTexts implements Hive.
func (localHive) SetTexts(key, name string, values []string) error {
	return change(key, func(k winreg.Key) error { return k.SetStringsValue(name, values) })
}

// SetNumber implements Hive.
func (localHive) SetNumber(key, name string, value uint32) error {
	return change(key, func(k winreg.Key) error { return k.SetDWordValue(name, value) })
}

// Expand implements Hive.
func (localHive) Expand(s string) (string, error) {
	out, err := winreg.ExpandString(s)
	if err != nil {
		return "", fmt.Errorf("is %q, whose variables cannot be expanded: %w", s, err)
	}
	return out, nil
}

// Is64Bit implements Hive.
func (localHive) Is64Bit() bool {
	if runtime.GOARCH != "386" {
		return true
	}
	var wow64 bool
	return windows.IsWow64Process(windows.CurrentProcess(), &wow64) == nil && wow64
}
