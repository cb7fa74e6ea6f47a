package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"prestage/internal/client"
	"prestage/internal/durable"
	"prestage/internal/event"
	"prestage/internal/policy"
	"prestage/internal/prestage"
	"prestage/internal/repo"
	"prestage/internal/sign"
)

// statePrefix is how the names of the agent's own files begin, in the image store
// itself: there users who may create folders can plant no file.
const statePrefix = ".agent-"

func statePath(store, name string) string { return filepath.Join(store, statePrefix+name) }

// OwnFiles returns the agent's own files in an image store. It makes them anew when
// they are gone; the server then takes the machine for another one.
func OwnFiles(store string) []string {
	return append(event.QueueFiles(statePath(store, "")), statePath(store, knownName), statePath(store, pollName), filepath.Join(store, prestage.AgentLock))
}

const (
	knownName = "known.json"
	pollName  = "poll" // whoever touches it has the agent ask the server now
)

// Known is what a machine knows of its server, since the last time that it could be
// asked: offline, that is what the agent works by.
type Known struct {
	Server  string       `json:"server"`
	Asked   time.Time    `json:"asked"` // when the server answered last
	Entries []repo.Entry `json:"entries"`
	Policy  []byte       `json:"policy,omitempty"` // its file, as it was served
	Serial  uint64       `json:"serial,omitempty"` // the highest of a policy that was acted upon
	Ahead   []string     `json:"ahead,omitempty"`  // packages that the agent has pre-staged by itself, as NAME:N

	policy *policy.Policy // nil: there is none
}

// maxKnown is the largest file of what is known that is read, in bytes.
const maxKnown = 64 << 20

// LoadKnown returns what is known of a server. What cannot be read is not known.
func LoadKnown(store, server string, trust sign.Trust) *Known {
	none := &Known{Server: server}
	st, err := os.Stat(statePath(store, knownName))
	if err != nil || st.Size() > maxKnown {
		return none
	}
	b, err := os.ReadFile(statePath(store, knownName))
	if err != nil {
		return none
	}
	var k Known
	if json.Unmarshal(b, &k) != nil || k.Server != server {
		return none
	}
	if k.Policy != nil && k.accept(k.Policy, trust) != nil {
		k.Policy, k.policy = nil, nil // the keys are others now
	}
	return &k
}

func (k *Known) save(store string) error {
	b, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return durable.WriteFile(statePath(store, knownName), b, 0o644)
}

// accept takes a policy, unless it is not one, or not by whom it must be.
func (k *Known) accept(file []byte, trust sign.Trust) error {
	p, signed, err := policy.Parse(file)
	if err != nil {
		return err
	}
	if trust.Required() {
		if err := signed.CheckSigned(trust, p.Serial); err != nil {
			return err
		}
	}
	if p.Serial < k.Serial {
		return fmt.Errorf("policy %d is older than policy %d, which this machine has acted upon; change it once more where it is kept", p.Serial, k.Serial)
	}
	k.Policy, k.Serial, k.policy = file, p.Serial, p
	return nil
}

// errOpen says that a policy is not used because anybody could have written it.
var errOpen = errors.New("the server's policy is not used: it comes over http://, where others can change it, and this machine has no trusted keys; use https://, or sign it (\"prestage policy sign\", \"prestage setup --trusted-key\")")

// Ask asks the server anew, and returns what is known then. A policy that cannot be
// used is told by refused; what was known of the one before stays.
func (k *Known) Ask(ctx context.Context, r repo.Repository, trust sign.Trust) (now *Known, refused, err error) {
	next := *k
	if next.Entries, err = r.List(ctx); err != nil {
		return nil, nil, err
	}
	file, err := repo.Policy(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case file == nil && (!trust.Required() || next.policy == nil):
		next.Policy, next.policy = nil, nil
	case file == nil:
		refused = errors.New("the server has no policy any more; the last one that was signed holds on")
	case !trust.Required() && !repo.Guarded(r):
		next.Policy, next.policy, refused = nil, nil, errOpen
	default:
		refused = next.accept(file, trust)
	}
	next.Asked = time.Now()
	return &next, refused, nil
}

// rule returns the policy for an image on a machine, and whether the machine is
// assigned it. Without a policy, updates are suggested.
func (k *Known) rule(image, machine string) (policy.Rule, bool) {
	if k.policy == nil {
		return policy.Rule{}, false
	}
	// It may have been installed by hand: what is asked of it holds all the same.
	return k.policy.Rule(image, machine)
}

// assigned returns the images that the policy assigns to a machine.
func (k *Known) assigned(machine string) (names []string) {
	if k.policy == nil {
		return nil
	}
	for name := range k.policy.For(machine) {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// released returns the version that machines are to have, 0 if there is none yet.
func (k *Known) released(image string, r policy.Rule) (version uint32) {
	for _, e := range k.Entries {
		if e.Name == image && (r.Version == 0 || e.Version <= r.Version) {
			version = max(version, e.Version)
		}
	}
	if r.Version != 0 && version != r.Version {
		return 0 // it is withdrawn, or not there yet
	}
	return version
}

func (k *Known) has(image string, version uint32) bool {
	return slices.ContainsFunc(k.Entries, func(e repo.Entry) bool { return e.Name == image && e.Version == version })
}

// Update is a version of an image that is installed on a machine, and of which
// there is a later one.
type Update struct {
	Image     string      `json:"image"`
	Installed uint32      `json:"installed"`
	Available uint32      `json:"available"`
	Mode      policy.Mode `json:"mode"`
	Waits     string      `json:"waits,omitempty"` // why the agent does not update now, of those that are forced
	Until     time.Time   `json:"until,omitzero"`  // when that may change

	rule policy.Rule
}

// Updates returns the updates for what is installed in a store, in the order of
// their names.
func (k *Known) Updates(store *client.Store, machine string, now time.Time) (list []Update) {
	images, _ := store.List()
	newest := map[string]uint32{}
	for _, img := range images {
		newest[img.Name] = max(newest[img.Name], img.Version)
	}
	for name, installed := range newest {
		r, _ := k.rule(name, machine)
		u := Update{Image: name, Installed: installed, Available: k.released(name, r), Mode: cmp.Or(r.Update, policy.Suggest), rule: r}
		if u.Available <= installed || u.Mode == policy.Off {
			continue
		}
		if u.Mode == policy.Force {
			u.Waits, u.Until = r.Waits(name, machine, now)
		}
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b Update) int { return strings.Compare(a.Image, b.Image) })
	return list
}

// RequestPoll has the agent of a machine ask its server as soon as it can.
func RequestPoll(store string) error {
	return durable.WriteFile(statePath(store, pollName), []byte(time.Now().UTC().Format(time.RFC3339Nano)+"\n"), 0o644)
}
