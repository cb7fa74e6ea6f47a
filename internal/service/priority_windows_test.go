package service

import (
	"testing"

	"golang.org/x/sys/windows"
)

func TestLowerPriority(t *testing.T) {
	defer windows.SetPriorityClass(windows.CurrentProcess(), windows.NORMAL_PRIORITY_CLASS)
	lowerPriority()
	if class, err := windows.GetPriorityClass(windows.CurrentProcess()); err != nil || class != windows.BELOW_NORMAL_PRIORITY_CLASS {
		t.Errorf("the class is %#x, %v", class, err)
	}
}
