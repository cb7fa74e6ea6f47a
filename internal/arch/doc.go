// Package arch holds the project to its own layout: which package may import
// which, one package comment each, short files. It has tests only.
package arch
