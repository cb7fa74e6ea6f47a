//go:build !linux && !windows

package ownfiles

func lowerPriority() {}
