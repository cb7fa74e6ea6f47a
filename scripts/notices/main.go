// Command notices writes THIRD_PARTY_NOTICES.md: the licence texts of all that
// is linked into prestage. Run it from the repository's root, with the
// platforms to cover:
//
//	go run ./scripts/notices [-check] linux/amd64 windows/amd64
//
// The modules linked differ between platforms; the file covers all of them
// together. The output depends on go.mod and the platforms alone.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	program = "./cmd/prestage"
	output  = "THIRD_PARTY_NOTICES.md"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("notices: ")
	check := flag.Bool("check", false, "only compare, and fail if "+output+" is out of date")
	flag.Parse()
	if err := run(flag.Args(), *check); err != nil {
		log.Fatal(err)
	}
}

func run(platforms []string, check bool) error {
	if len(platforms) == 0 {
		return errors.New("name at least one platform, such as linux/amd64")
	}
	components, err := linked(platforms)
	if err != nil {
		return err
	}
	want := render(components)
	if !check {
		return os.WriteFile(output, want, 0o644)
	}
	have, err := os.ReadFile(output)
	if err != nil {
		return err
	}
	if !bytes.Equal(have, want) {
		return fmt.Errorf("%s is out of date: run make notices", output)
	}
	return nil
}

// A component is one module, or Go itself, with its licence texts.
type component struct {
	name, version string
	texts         []text
}

// A text is one licence file; name is its slash-separated path in the module.
type text struct {
	name, body string
}

// linked returns Go and the modules that program links on any of platforms,
// in order of their names.
func linked(platforms []string) ([]component, error) {
	goroot, err := goCommand(nil, "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	root := strings.TrimSpace(string(goroot))
	// The version is left out: a newer Go with the same licence must not make
	// the file out of date.
	std, err := read("The Go standard library and runtime", "", root, map[string]bool{root: true})
	if err != nil {
		return nil, err
	}

	type module struct{ Path, Version, Dir string }
	packages := map[module]map[string]bool{} // module → directories of its linked packages
	for _, platform := range platforms {
		goos, goarch, ok := strings.Cut(platform, "/")
		if !ok {
			return nil, fmt.Errorf("platform %q is not of the form os/arch", platform)
		}
		list, err := goCommand([]string{"GOOS=" + goos, "GOARCH=" + goarch, "CGO_ENABLED=0"},
			"list", "-deps", "-json=Dir,Module", program)
		if err != nil {
			return nil, err
		}
		for dec := json.NewDecoder(bytes.NewReader(list)); ; {
			var p struct {
				Dir    string
				Module *struct {
					module
					Main    bool
					Replace *module
				}
			}
			if err := dec.Decode(&p); err == io.EOF {
				break
			} else if err != nil {
				return nil, fmt.Errorf("reading go list's output: %w", err)
			}
			if p.Module == nil || p.Module.Main { // the standard library, or ours
				continue
			}
			m := p.Module.module
			if p.Module.Replace != nil {
				m = *p.Module.Replace
			}
			if packages[m] == nil {
				packages[m] = map[string]bool{}
			}
			packages[m][p.Dir] = true
		}
	}

	var modules []component
	for m, dirs := range packages {
		c, err := read(m.Path, m.Version, m.Dir, dirs)
		if err != nil {
			return nil, err
		}
		modules = append(modules, c)
	}
	slices.SortFunc(modules, func(a, b component) int {
		return strings.Compare(a.name+" "+a.version, b.name+" "+b.version)
	})
	return append([]component{std}, modules...), nil
}

// goCommand runs the go command with env added to the environment.
func goCommand(env []string, args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// licence matches the names that licence files go by.
var licence = regexp.MustCompile(`(?i)^(un)?licen[cs]e|^(copying|copyright|notice|patents)`)

// read collects the licence files of the module in root that apply to the
// packages in dirs: those in a package's folder and in the folders above it, up
// to root. Copied code often keeps its own licence beside it.
func read(name, version, root string, dirs map[string]bool) (component, error) {
	c := component{name: name, version: version}
	seen := map[string]bool{}
	for dir := range dirs {
		rel, err := filepath.Rel(root, dir)
		if err != nil || !filepath.IsLocal(rel) {
			return c, fmt.Errorf("package folder %s is not in the module's folder %s", dir, root)
		}
		for ; !seen[rel]; rel = filepath.Dir(rel) {
			seen[rel] = true
			entries, err := os.ReadDir(filepath.Join(root, rel))
			if err != nil {
				return c, err
			}
			for _, e := range entries {
				if !isText(e) {
					continue
				}
				file := filepath.Join(rel, e.Name())
				body, err := os.ReadFile(filepath.Join(root, file))
				if err != nil {
					return c, err
				}
				c.texts = append(c.texts, text{
					name: filepath.ToSlash(file),
					body: strings.Trim(strings.ReplaceAll(string(body), "\r\n", "\n"), "\n") + "\n",
				})
			}
			if rel == "." {
				break
			}
		}
	}
	if len(c.texts) == 0 {
		return c, fmt.Errorf("%s %s has no licence file: find out its terms before linking it", name, version)
	}
	slices.SortFunc(c.texts, func(a, b text) int { return strings.Compare(a.name, b.name) })
	return c, nil
}

// isText tells licence files from folders and from code that deals with licences.
func isText(e fs.DirEntry) bool {
	ext := filepath.Ext(e.Name())
	return e.Type().IsRegular() && licence.MatchString(e.Name()) && ext != ".go" && ext != ".s"
}

// render writes the file. A text that several files share, byte for byte, is
// printed once, under the first of them.
func render(components []component) []byte {
	var b bytes.Buffer
	b.WriteString(`# Third-party notices

<!-- Written by scripts/notices. Do not edit: run make notices. -->

prestage is linked with the software below, each under its own licence.

| Software | Version | Licence files |
|---|---|---|
`)
	for _, c := range components {
		names := make([]string, len(c.texts))
		for i, t := range c.texts {
			names[i] = "`" + t.name + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", c.name, c.version, strings.Join(names, ", "))
	}
	printed := map[string]string{} // body → where it was printed
	for _, c := range components {
		title := strings.TrimSpace(c.name + " " + c.version)
		fmt.Fprintf(&b, "\n## %s\n", title)
		for _, t := range c.texts {
			fmt.Fprintf(&b, "\n### %s\n\n", t.name)
			if where, ok := printed[t.body]; ok {
				fmt.Fprintf(&b, "The same text as %s.\n", where)
				continue
			}
			printed[t.body] = fmt.Sprintf("`%s` of %s", t.name, title)
			fence := "```"
			for strings.Contains(t.body, fence) {
				fence += "`"
			}
			fmt.Fprintf(&b, "%stext\n%s%s\n", fence, t.body, fence)
		}
	}
	return b.Bytes()
}
