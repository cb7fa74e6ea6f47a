package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"prestage/internal/ledger"
	"prestage/internal/server"
)

// eventsFlags say where a server keeps what machines tell, and for how long.
type eventsFlags struct {
	where, keep, most string
}

// add adds the flags to a command.
func (f *eventsFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.where, "events", "", "take what machines tell into this database: a file, or postgres://USER@HOST/DATABASE")
	cmd.Flags().StringVar(&f.keep, "keep-events", "400d", "forget events after so many days; 0 keeps all")
	cmd.Flags().StringVar(&f.most, "events-most", "", "most bytes of the file of --events: then machines keep what they have to tell; 0 is no limit (default 64GiB)")
}

// oldest returns how old events may get, 0 for no limit.
func (f *eventsFlags) oldest() (time.Duration, error) {
	if f.keep == "0" {
		return 0, nil
	}
	days, err := strconv.Atoi(strings.TrimSuffix(f.keep, "d"))
	if err != nil || days < 1 || days > 100_000 {
		return 0, usageError{fmt.Errorf("--keep-events %q: use a number of days such as 90d, or 0 to keep all", f.keep)}
	}
	return time.Duration(days) * 24 * time.Hour, nil
}

// Sizes of the file of events, in bytes.
const (
	usualEvents = 64 << 30 // at most, if nobody says otherwise
	leastEvents = 1 << 20  // an empty one has some hundred KiB
)

// bounds returns how much is kept.
func (f *eventsFlags) bounds() (b ledger.Bounds, err error) {
	if b.Oldest, err = f.oldest(); err != nil {
		return b, err
	}
	switch {
	case f.most != "" && ledger.IsServer(f.where):
		return b, usageError{errors.New("--events-most is for a file: what PostgreSQL may take is set there")}
	case f.most == "":
		b.Most = usualEvents
	case f.most != "0":
		if b.Most, err = byteSize("--events-most", f.most); err == nil && b.Most < leastEvents {
			err = usageError{fmt.Errorf("--events-most %q: use 1MiB or more, or 0 for no limit", f.most)}
		}
	}
	return b, err
}

// open begins to keep events as the flags say, into c, until close is called.
func (f *eventsFlags) open(c *server.Config, log *slog.Logger) (close func(), err error) {
	b, err := f.bounds()
	if err != nil || f.where == "" {
		return func() {}, err
	}
	k, err := ledger.Keep(f.where, b, log)
	if err != nil {
		return nil, usageError{fmt.Errorf("--events: %w", err)}
	}
	c.Events = k
	return func() { k.Close() }, nil
}

// forService refuses what a service's command line must not show to everybody, and
// makes sure that the database can be used.
func (f *eventsFlags) forService(log *slog.Logger) error {
	if ledger.HasPassword(f.where) {
		return usageError{errors.New("--events: all users of the machine could read the password in the service's command line; " +
			"leave it out, and put it into the file that $PGPASSFILE names for the service, or into ~/.pgpass (%APPDATA%\\postgresql\\pgpass.conf) of its user")}
	}
	close, err := f.open(&server.Config{}, log)
	if err == nil {
		close()
	}
	return err
}

// eventsPlace is the database that is named by a flag, or by $PRESTAGE_EVENTS.
func eventsPlace(flag string) (string, error) {
	if flag == "" {
		flag = os.Getenv("PRESTAGE_EVENTS")
	}
	if flag == "" {
		return "", usageError{errors.New("name the database of \"prestage serve --events\" with --events, or in $PRESTAGE_EVENTS")}
	}
	return flag, nil
}
