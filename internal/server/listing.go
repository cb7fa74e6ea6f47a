package server

import (
	"bytes"
	"html/template"
	"net/url"

	"github.com/docker/go-units"

	"prestage/internal/repo"
)

var listingPage = template.Must(template.New("").Funcs(template.FuncMap{
	"size": func(n uint64) string { return units.BytesSize(float64(n)) },
	"link": url.PathEscape,
}).Parse(`<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>MED-V images</title>
<style>
body { font: 1em/1.5 system-ui, sans-serif; margin: 2em }
td, th { padding: .2em 1.5em .2em 0; text-align: left }
.n { text-align: right; font-variant-numeric: tabular-nums }
</style>
<h1>MED-V images</h1>
{{if .}}<table>
<tr><th>Image name<th class="n">Version<th class="n">File size<th class="n">Image size<th>Created<th>Files
{{range .}}<tr><td>{{.Name}}<td class="n">{{.Version}}<td class="n">{{size .FileSize}}<td class="n">{{size .ImageSize}}<td>{{.Created.Format "2006-01-02 15:04"}}<td><a href="./{{link .CKM}}">CKM</a> <a href="./{{link .Index}}">INDEX</a>
{{end}}</table>
{{else}}<p>There are no images here.
{{end}}<p><a href="./` + repo.CatalogName + `">` + repo.CatalogName + `</a>
`))

// listing makes a page for people.
func listing(entries []repo.Entry) []byte {
	var b bytes.Buffer
	if err := listingPage.Execute(&b, entries); err != nil {
		panic(err) // plain data
	}
	return b.Bytes()
}
