package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"prestage/internal/client"
	"prestage/internal/policy"
	"prestage/internal/prestage"
	"prestage/internal/progress"
	"prestage/internal/repo"
)

// followPolicy does what the policy asks besides the first version of each image:
// updates, packages that are fetched ahead, and versions that are removed. It
// returns how long there is nothing more to do.
func (a *Agent) followPolicy(ctx context.Context, t *task) time.Duration {
	next := a.Times.LookMax
	if t.known == nil {
		return next
	}
	now := a.Now()
	current := map[string]bool{}
	for _, u := range t.known.Updates(t.store, a.Machine, now) {
		img := a.attending(&a.updating, u.Image, current)
		if print := fmt.Sprintf("%d %d %v", u.Installed, u.Available, u.rule); print != img.print {
			img.forget()
			img.saw(print, a.Times)
		}
		switch {
		case u.Mode == policy.Suggest:
			a.suggest(ctx, t, img, u)
		case u.Waits != "":
			img.tell(Waiting, "%s can be updated to version %d: waiting, %s", u.Image, u.Available, u.Waits)
			if !u.Until.IsZero() {
				next = min(next, max(u.Until.Sub(now), 0))
			}
		default:
			next = min(next, a.try(img, func() error { return a.update(ctx, t, img, u) }, "image %s could not be updated: %v; it is tried again", u.Image))
		}
	}
	for _, name := range t.known.assigned(a.Machine) {
		next = min(next, a.stageAhead(ctx, t, name, current))
		a.tidy(ctx, t, name)
	}
	for name := range a.updating {
		if !current[name] {
			delete(a.updating, name)
		}
	}
	return next
}

// attending returns what is known of work on an image.
func (a *Agent) attending(all *map[string]*image, name string, current map[string]bool) *image {
	current[name] = true
	if *all == nil {
		*all = map[string]*image{}
	}
	img := (*all)[name]
	if img == nil {
		img = &image{teller: teller{log: a.Log, image: name}}
		(*all)[name] = img
	}
	return img
}

// try does something, unless it failed not long ago, and returns when there is
// something to do again.
func (a *Agent) try(img *image, do func() error, failed string, what ...any) time.Duration {
	if rest := time.Until(img.again); img.fails > 0 && rest > 0 {
		return rest
	}
	err := do()
	switch {
	case err == nil:
		img.fails = 0
		return 0
	case errors.Is(err, context.Canceled) || errors.Is(err, errWithdrawn):
		return 0 // it goes on from there when it may
	}
	img.tell(Failed, failed, append(what, err)...)
	delay := min(a.Times.Retry<<min(img.fails, 20), a.Times.RetryMax)
	img.fails++
	delay -= rand.N(delay/4 + 1)
	img.again = time.Now().Add(delay)
	return delay
}

// suggest says once that there is a version, to the hook too.
func (a *Agent) suggest(ctx context.Context, t *task, img *image, u Update) {
	key := fmt.Sprint(Suggested, u.Available)
	if img.told[key] {
		return
	}
	img.tell(Suggested, "there is version %d of image %s, version %d is installed; \"prestage update %s\" brings it", u.Available, u.Image, u.Installed, u.Image)
	img.told[key] = true
	if t.settings.UpdateHook == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, t.settings.UpdateHook, u.Image, strconv.Itoa(int(u.Installed)), strconv.Itoa(int(u.Available))).CombinedOutput()
	if err != nil && ctx.Err() == nil {
		img.tell(Warned, "the program that is to tell of updates, %s, failed: %v; %s", t.settings.UpdateHook, err, strings.TrimSpace(string(out[:min(len(out), 500)])))
	}
}

// update brings an image up to date, as long as the policy allows it.
func (a *Agent) update(ctx context.Context, t *task, img *image, u Update) error {
	ctx, done := a.server.tie(ctx, a.Times.Tick, func(k *Known) bool {
		r, _ := k.rule(u.Image, a.Machine)
		why, _ := r.Waits(u.Image, a.Machine, a.Now())
		return r.Update == policy.Force && why == "" && k.released(u.Image, r) == u.Available
	})
	defer done()
	in, err := a.from(t, img, u.Image, u.Available, &u.rule)
	if err != nil {
		return err
	}
	if !may(u.rule.UpdateFromPrestaged, t.settings.UpdateFromPrestaged) {
		in.Prestaged = nil
	}
	up := &client.Update{Install: *in, Keep: u.rule.KeepOld(), Busy: a.busy(t)}
	img.tell(Waiting, "updating image %s from version %d to %d", u.Image, u.Installed, u.Available)
	did, err := up.Run(ctx)
	if did == nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	if !did.Already {
		img.tellWith(t.receipt(&did.Installed), Updated, "updated image %s from version %d to %d", u.Image, u.Installed, u.Available)
		for _, v := range did.Removed {
			img.tell(Removed, "removed version %d of image %s", v, u.Image)
		}
	}
	if err != nil { // the new one is whole all the same
		img.tell(Warned, "%v", err)
	}
	return nil
}

// may is what a policy says, or else the machine's settings.
func may(policy *bool, settings bool) bool {
	if policy != nil {
		return *policy
	}
	return settings
}

// receipt is what tells the server that a version was made whole.
func (t *task) receipt(in *client.Installed) []slog.Attr {
	fetched := int64(0)
	for _, s := range in.Sources {
		if s.Source != t.staged {
			fetched += s.Bytes
		}
	}
	return []slog.Attr{slog.Uint64(versionKey, uint64(in.Version)), slog.String(digestKey, in.PackageDigest), slog.Int64(fetchedKey, fetched)}
}

// from says where a version of an image comes from, and how, by the policy for it.
func (a *Agent) from(t *task, img *image, name string, version uint32, r *policy.Rule) (*client.Install, error) {
	trust, err := t.settings.Trust()
	if err != nil {
		return nil, err
	}
	in := &client.Install{Name: name, Version: version, Store: t.store, Trust: trust, Limit: client.Limiter(r.Limit),
		SeedFolders: t.settings.SeedFolders, Full: r.TrimTransfer != nil && !*r.TrimTransfer, Meter: meter{progress.Discard, &img.teller}}
	if len(r.SeedFolders) > 0 {
		in.SeedFolders = r.SeedFolders
	}
	if t.staged != "" {
		in.Prestaged = repo.NewStrictFolder(t.staged)
	}
	if t.settings.Server != "" {
		if in.Images, err = repo.Open(t.settings.Server); err != nil {
			return nil, err
		}
	}
	return in, nil
}

// busy reports whether a version is in use.
func (a *Agent) busy(t *task) func(context.Context, string, uint32) (bool, error) {
	return func(ctx context.Context, name string, version uint32) (bool, error) {
		files, err := t.store.Files(name, version)
		if err != nil {
			return false, err
		}
		for _, f := range files {
			if used, err := a.Host.InUse(ctx, f); err != nil || used {
				return used, err
			}
		}
		return false, nil
	}
}

// stageAhead pre-stages the version of an image that is to be released.
func (a *Agent) stageAhead(ctx context.Context, t *task, name string, current map[string]bool) time.Duration {
	r, _ := t.known.rule(name, a.Machine)
	ahead := repo.ImageName(name, r.Ahead)
	if r.Ahead == 0 || t.staged == "" || a.ahead[name] == r.Ahead || !t.known.has(name, r.Ahead) {
		return a.Times.LookMax
	}
	if open, opens := r.Window.At(a.Now()); !open {
		return min(a.Times.LookMax, opens.Sub(a.Now()))
	}
	img := a.attending(&a.updating, ahead, current)
	img.image = name
	return a.try(img, func() error {
		ctx, done := a.server.tie(ctx, a.Times.Tick, func(k *Known) bool {
			now, own := k.rule(name, a.Machine)
			open, _ := now.Window.At(a.Now())
			return own && open && now.Ahead == r.Ahead
		})
		defer done()
		trust, err := t.settings.Trust()
		if err != nil {
			return err
		}
		server, err := repo.Open(t.settings.Server)
		if err != nil {
			return err
		}
		pushed, err := prestage.Push(ctx, a.Host, server, name, r.Ahead, prestage.PushOptions{Trust: trust, Limit: client.Limiter(r.Limit)})
		if cause := context.Cause(ctx); err != nil && cause != nil {
			return cause
		}
		if err != nil {
			return err
		}
		a.ahead[name] = r.Ahead
		if !pushed.Already {
			img.tellWith([]slog.Attr{slog.Uint64(versionKey, uint64(r.Ahead)), slog.String(digestKey, pushed.Receipt.PackageDigest), slog.Int64(fetchedKey, pushed.Moved)},
				Staged, "pre-staged %s, which is to be released", ahead)
		}
		return a.server.noteAhead(t, ahead)
	}, "%s could not be pre-staged: %v; it is tried again", ahead)
}

// noteAhead remembers a package that the agent has brought into the pre-stage
// folder, and will take out again.
func (s *server) noteAhead(t *task, image string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.known.Ahead, image) {
		return nil
	}
	k := *s.known
	k.Ahead = append(slices.Clone(k.Ahead), image)
	s.known = &k
	return k.save(t.store.String())
}

// tidy removes the versions of an image that the policy does not keep, and packages
// that were fetched ahead and are installed now.
func (a *Agent) tidy(ctx context.Context, t *task, name string) {
	versions, err := t.store.Versions(name)
	if err != nil || len(versions) == 0 {
		return
	}
	newest := versions[len(versions)-1]
	told := a.attending(&a.updating, name, map[string]bool{})
	r, _ := t.known.rule(name, a.Machine)
	if r.Keep != nil && len(versions)-1 > *r.Keep {
		up := &client.Update{Install: client.Install{Name: name, Version: newest, Store: t.store, Meter: progress.Discard}, Keep: *r.Keep, Busy: a.busy(t)}
		removed, err := up.Tidy(ctx)
		for _, v := range removed {
			told.tell(Removed, "removed version %d of image %s", v, name)
		}
		if err != nil && ctx.Err() == nil {
			told.tell(Warned, "an old version of image %s could not be removed: %v", name, err)
		}
	}
	for _, image := range t.known.Ahead {
		n, v, ok := strings.Cut(image, ":")
		version, err := strconv.ParseUint(v, 10, 31)
		if !ok || err != nil || n != name || uint32(version) > newest {
			continue
		}
		err = prestage.Remove(ctx, a.Host, name, uint32(version), false)
		if err != nil && !errors.Is(err, repo.ErrNotFound) {
			told.tell(Warned, "%s could not be taken out of the pre-stage folder: %v", image, err)
			continue
		}
		a.server.forgetAhead(t, image)
		if err == nil {
			told.tell(Removed, "took %s out of the pre-stage folder: it is installed", image)
		}
	}
}

func (s *server) forgetAhead(t *task, image string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := *s.known
	k.Ahead = slices.DeleteFunc(slices.Clone(k.Ahead), func(a string) bool { return a == image })
	s.known = &k
	k.save(t.store.String()) // else it is found not to be there the next time
}
