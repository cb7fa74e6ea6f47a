package agent

import (
	"slices"
	"testing"
	"time"

	"prestage/ckm"
	"prestage/internal/client"
	"prestage/internal/settings"
	"prestage/internal/sign"
)

// signed returns a package with a key's signature.
func signed(t *testing.T, p parcel, k sign.Key) parcel {
	t.Helper()
	x, err := ckm.Decode(p.index)
	must(t, err)
	must(t, k.Sign(x, time.Unix(1780000000, 0)))
	p.index, err = x.Encode()
	must(t, err)
	return p
}

func (m *machine) agentStore() *client.Store { return client.NewStore(m.store) }

// TestTrust waits for a package that is signed, and takes no older one than it
// had: there is no user who could have named it.
func TestTrust(t *testing.T) {
	k, err := sign.NewKey()
	must(t, err)
	m := newMachine(t)
	must(t, m.keeper.Save(settings.Settings{TrustedKeys: []string{k.PublicLine()}}))
	p := newParcel(t, "win11", 2, 1, 300_000)
	m.stage(p)
	stop := m.start()
	m.tells(Failed, "win11:2 is not signed by a trusted key: it has no signature")
	if m.has(p) {
		t.Error("it was installed all the same")
	}
	m.stage(signed(t, p, k))
	m.installs(p)
	stop()

	must(t, m.agentStore().Remove(t.Context(), "win11", 2))
	must(t, m.host.Remove(t.Context(), m.index(p)))
	must(t, m.host.Remove(t.Context(), m.data(p)))
	older := signed(t, newParcel(t, "win11", 1, 2, 300_000), k)
	m.stage(older)
	m.agent = m.newAgent(m.log)
	m.start()
	m.tells(Failed, "its win11:1 is older than what this machine has seen, win11:2")
	m.stage(signed(t, newParcel(t, "win11", 3, 3, 300_000), k))
	m.eventually("win11:3 is installed", func() bool {
		versions, err := m.agentStore().Versions("win11")
		return err == nil && slices.Equal(versions, []uint32{3})
	})
}
