//go:build !windows

package settings

func defaultKeeper() Keeper { return File("/etc/prestage/prestage.toml") }
