package agent

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"prestage/internal/client"
	"prestage/internal/ownfiles"
	"prestage/internal/progress"
)

// ownFilesAge is how old what is known of the machine's own files may be.
const ownFilesAge = 24 * time.Hour

// lookAtOwnFiles finds out, in the background, which chunks the machine's own
// files have, so that later versions of its images need not be fetched in full.
// It is done only on a machine whose images come from a server, and only if the
// files have something of the images that are installed.
func (a *Agent) lookAtOwnFiles(ctx context.Context, t *task) {
	if t.settings.Server == "" || time.Since(a.ownFiles) < ownFilesAge {
		return
	}
	cache := t.store.OwnFiles()
	if st, err := os.Stat(cache); err == nil && time.Since(st.ModTime()) < ownFilesAge {
		return
	}
	images, _ := t.store.List()
	if len(images) == 0 {
		return
	}
	a.ownFiles = time.Now()
	folders := slices.Clone(t.settings.SeedFolders)
	ask := len(folders) == 0 // an administrator's list is the last word
	if ask {
		folders = ownfiles.Defaults()
	}
	a.background.Go(func() {
		ownfiles.Background(func() {
			var size uint64
			var wanted []func(uint64) bool
			for i, img := range images {
				if i+1 < len(images) && images[i+1].Name == img.Name {
					continue // the latest version is most like the next
				}
				x, err := t.store.Index(img.Name, img.Version)
				if err != nil {
					continue
				}
				if ask {
					folders = append(folders, client.SeedFoldersOf(x)...)
				}
				size += x.PlacedSize()
				wanted = append(wanted, ownfiles.Wanted(x))
			}
			held, err := ownfiles.Estimate(ctx, folders, func(prefix uint64) bool {
				for _, w := range wanted {
					if w(prefix) {
						return true
					}
				}
				return false
			})
			if err != nil {
				return
			}
			if uint64(held) < size/ownfiles.Worth {
				os.Remove(cache)
				return
			}
			x := ownfiles.Load(cache)
			if err := x.Refresh(ctx, folders, progress.Discard); err == nil {
				err = x.Save(cache)
				if err != nil {
					a.Log.Warn("what is known of this machine's own files cannot be kept", "file", filepath.Base(cache), "error", err)
				}
			}
		})
	})
}
