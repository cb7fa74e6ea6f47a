package view

import (
	"os"

	"golang.org/x/sys/windows"
)

// prepare lets the console understand what the table is drawn with. Consoles
// before Windows 10 do not.
func prepare(f *os.File) (restore func(), err error) {
	h := windows.Handle(f.Fd())
	var mode uint32
	if err := windows.GetConsoleMode(h, &mode); err != nil {
		return nil, err
	}
	if err := windows.SetConsoleMode(h, mode|windows.ENABLE_PROCESSED_OUTPUT|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING); err != nil {
		return nil, err
	}
	return func() { windows.SetConsoleMode(h, mode) }, nil
}

// Windows stops no programs from the keyboard, and has no background.
func notifyResumed(chan os.Signal) {}

func stopNotifying(chan os.Signal) {}

func (t *terminal) ours() bool { return true }
