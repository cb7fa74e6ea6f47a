package main

import (
	"errors"

	"golang.org/x/sys/windows/registry"
)

// forgetSettings removes the values that an installation sets. Others in their
// key stay, such as those that somebody has set by hand, and keep the key.
func forgetSettings() error {
	const path = `SOFTWARE\Kidaro`
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, path, registry.QUERY_VALUE|registry.SET_VALUE|registry.WOW64_32KEY)
	if errors.Is(err, registry.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer k.Close()
	names := []string{"PrestagedImagesPath", "VMSFolder", "ServerAddress", "ServerPort", "ServerSsl"}
	// The installer's is one key, "prestage setup" writes a list.
	if _, kind, err := k.GetValue("TrustedKeys", nil); err == nil && kind == registry.SZ {
		names = append(names, "TrustedKeys")
	}
	for _, name := range names {
		if err := k.DeleteValue(name); err != nil && !errors.Is(err, registry.ErrNotExist) {
			return err
		}
	}
	return nil
}
