// Package bundle makes and checks deployment packages: folders for removable
// media that hold the client's installer, the program, packages of images, and
// a script that verifies all of it before it installs anything.
package bundle

import (
	"prestage/ckm"
	"prestage/internal/repo"
)

// Names of the files of a bundle. Packages lie in ImagesFolder.
const (
	ManifestName = "bundle.json"
	ClientName   = "Client.MSI"
	ProgramName  = "prestage.exe"
	StartName    = "start.cmd"
	ReadmeName   = "README.txt"
	ImagesFolder = "MEDVImages"
)

// fixed are the files that every bundle has beside its manifest.
var fixed = []string{ClientName, ReadmeName, ProgramName, StartName}

// An Image is a package that a bundle holds.
type Image struct {
	Name    string
	Version uint32
}

// String returns NAME:N.
func (i Image) String() string { return repo.ImageName(i.Name, i.Version) }

// paths returns the paths of the package's two files in a bundle.
func (i Image) paths() (data, index string) {
	return ImagesFolder + "/" + ckm.DataName(i.Name, i.Version), ImagesFolder + "/" + ckm.IndexName(i.Name, i.Version)
}
