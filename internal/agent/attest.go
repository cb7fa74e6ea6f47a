package agent

import (
	"context"
	"fmt"

	"prestage/internal/host"
	"prestage/internal/prestage"
	"prestage/internal/progress"
	"prestage/internal/repo"
)

// attest checks the packages that nobody has read back since they came into the
// pre-stage folder, and leaves a receipt there: for whoever looks at the machine
// from elsewhere, or has left the check to it. Each package is read once.
func (a *Agent) attest(ctx context.Context, t *task) {
	there := map[string]string{}
	for name, versions := range t.packages {
		for _, v := range versions {
			image := repo.ImageName(name, v.number)
			if v.index == nil || v.data == nil {
				continue
			}
			looks := fmt.Sprint(appearance(v.index), appearance(v.data))
			if a.attested[image] == looks {
				there[image] = looks
				continue
			}
			if unfinished, _ := a.unfinished(ctx, t, name, v); unfinished {
				continue
			}
			told := teller{log: a.Log, image: name}
			faults, err := prestage.Attest(ctx, a.Host, name, v.number, meter{progress.Discard, &told})
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				told.tell(Warned, "package %s in %s could not be checked: %v", image, t.staged, err)
			case len(faults) > 0:
				told.tell(Warned, "package %s in %s is damaged: %s; push it again", image, t.staged, faults[0])
			}
			there[image] = looks
		}
	}
	a.attested = there
}

// appearance changes when a file is changed.
func appearance(f *host.Info) string {
	return fmt.Sprintf(" %s %d %d", f.Name, f.Size, f.Modified.UnixNano())
}
