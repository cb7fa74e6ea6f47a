package bundle

import (
	"bytes"
	_ "embed" // the two templates
	"fmt"
	"strings"
	"text/template"

	"prestage/internal/settings"
)

//go:embed start.cmd.tmpl
var startText string

//go:embed README.txt.tmpl
var readmeText string

var (
	startTemplate  = template.Must(template.New(StartName).Parse(startText))
	readmeTemplate = template.Must(template.New(ReadmeName).Parse(readmeText))
)

// page is what the templates show: the manifest, whose texts have all been
// checked to stand between quotation marks in a script.
type page struct {
	*Manifest
	VMSFolder string
	Above     string // the folder that the image store is in, if it may have to be made
	Server    string // properties for msiexec, with a space before each
	URL       string
}

// render returns start.cmd and README.txt, with the line ends that Windows'
// command interpreter and editors need.
func (m *Manifest) render() (start, readme []byte, err error) {
	p := page{Manifest: m, VMSFolder: m.Settings.VMSFolder, URL: m.Settings.Server}
	// A drive is there or not: it cannot be made.
	if above := p.VMSFolder[:strings.LastIndexByte(p.VMSFolder, '\\')]; !strings.HasSuffix(above, ":") {
		p.Above = above
	}
	if p.URL != "" {
		address, port, ssl := settings.SplitServer(p.URL)
		p.Server = fmt.Sprintf(" SERVER_ADDRESS=%s SERVER_PORT=%d SERVER_SSL=%d", address, port, ssl)
	}
	if start, err = fill(startTemplate, p); err != nil {
		return nil, nil, err
	}
	readme, err = fill(readmeTemplate, p)
	return start, readme, err
}

func fill(t *template.Template, p page) ([]byte, error) {
	var b bytes.Buffer
	if err := t.Execute(&b, p); err != nil {
		return nil, err
	}
	return bytes.ReplaceAll(b.Bytes(), []byte("\n"), []byte("\r\n")), nil
}
