package agent

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"prestage/ckm"
	"prestage/internal/host"
	"prestage/internal/policy"
	"prestage/internal/repo"
)

// image is what the agent knows of an image that is to be installed.
type image struct {
	teller
	print string        // fingerprint of what it depends on, when last looked at
	since time.Time     // when that last changed
	look  time.Duration // until it is looked at again
	fails int           // attempts, with what it depends on unchanged
	again time.Time     // when the next one is due
}

// saw notes what the image depends on now. What has changed gets another chance
// at once; what has not is looked at less and less often.
func (i *image) saw(print string, times Times) {
	if i.look == 0 || print != i.print {
		i.print, i.since, i.look, i.fails = print, time.Now(), times.Look, 0
		return
	}
	i.look = min(2*i.look, times.LookMax)
}

// version is what the pre-stage folder holds of a version of an image.
type version struct {
	number      uint32
	index, data *host.Info // nil when the file is not there
}

// scan returns the versions of each image in the pre-stage folder, the latest
// first. "" has none.
func (a *Agent) scan(ctx context.Context, staged string) (map[string][]version, error) {
	images := map[string][]version{}
	if staged == "" {
		return images, nil
	}
	files, err := a.Host.ReadDir(ctx, staged)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		name, number, ext, ok := ckm.ParseFileName(f.Name)
		if !ok {
			continue
		}
		list := images[name]
		i := slices.IndexFunc(list, func(v version) bool { return v.number == number })
		if i < 0 {
			i, list = len(list), append(list, version{number: number})
		}
		if ext == ckm.IndexExt {
			list[i].index = &f
		} else {
			list[i].data = &f
		}
		images[name] = list
	}
	for _, list := range images {
		slices.SortFunc(list, func(v, w version) int { return cmp.Compare(w.number, v.number) })
	}
	return images, nil
}

// assigned returns the names of the images that the machine is to have.
func (t *task) assigned() []string {
	names := slices.Clone(t.settings.Images)
	if t.known != nil {
		names = append(names, t.known.assigned(t.machine)...)
	}
	if len(t.settings.Images) > 0 {
		return names
	}
	for name := range t.packages {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// rule is the policy for an image on the machine, which may ask nothing.
func (t *task) rule(name string) (r policy.Rule) {
	if t.known != nil {
		r, _ = t.known.rule(name, t.machine)
	}
	return r
}

// fingerprint changes with whatever the installation of an image depends on.
func (t *task) fingerprint(name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q %q %q %q %v", t.settings.VMSFolder, t.staged, t.settings.Server, t.settings.TrustedKeys, t.rule(name))
	for _, v := range t.packages[name] {
		for _, f := range []*host.Info{v.index, v.data} {
			if f != nil {
				b.WriteString(appearance(f))
			}
		}
	}
	return b.String()
}

// pick chooses the version to install, 0 for the latest that there is anywhere.
// When nothing is ready, it says why, unless that is not worth telling.
func (a *Agent) pick(ctx context.Context, t *task, img *image, name string) (number uint32, ready bool, why string) {
	released := t.rule(name).Version // what is later is there ahead of its release
	list := slices.DeleteFunc(slices.Clone(t.packages[name]), func(v version) bool { return released > 0 && v.number > released })
	stalled := time.Since(img.since) > a.Times.Patience
	for i, v := range list {
		unfinished, reason := a.unfinished(ctx, t, name, v)
		switch {
		case !unfinished && i == 0 && released == 0:
			return 0, true, ""
		case !unfinished:
			return v.number, true, ""
		case !stalled:
			return 0, false, reason
		case why == "":
			why = reason
		}
	}
	if t.settings.Server != "" {
		return released, true, ""
	}
	if len(list) == 0 {
		why = fmt.Sprintf("it is not in the pre-stage folder %s yet", t.staged)
	}
	return 0, false, why
}

// unfinished reports whether a package is still being copied, as far as can be
// told from its files' sizes and times, and why that is so.
func (a *Agent) unfinished(ctx context.Context, t *task, name string, v version) (bool, string) {
	index, data := ckm.IndexName(name, v.number), ckm.DataName(name, v.number)
	switch {
	case v.index == nil:
		return true, fmt.Sprintf("%s is there and %s is not yet", data, index)
	case v.data == nil:
		return true, fmt.Sprintf("%s is there and %s is not yet", index, data)
	case v.index.Kind != host.KindFile || v.data.Kind != host.KindFile:
		return false, "" // trying it will tell what is wrong
	}
	for _, f := range []*host.Info{v.index, v.data} {
		if age := time.Since(f.Modified); age >= 0 && age < a.Times.Settle {
			return true, ""
		}
	}
	f, err := a.Host.Open(ctx, a.Host.Join(t.staged, index))
	if err != nil {
		return false, ""
	}
	defer f.Close()
	head, err := repo.ReadHead(io.NewSectionReader(f, 0, ckm.MaxIndexSize))
	if err == nil && uint64(v.data.Size) < head.CKMLength {
		return true, fmt.Sprintf("%s has %d of %d bytes", data, v.data.Size, head.CKMLength)
	}
	return false, ""
}
