package daytime

import (
	"testing"
	"time"
	_ "time/tzdata" // machines without it run tests too
)

func TestWindow(t *testing.T) {
	for _, s := range []string{"22", "22:00", "22:00-22:00", "25:00-06:00", "22:00-06:60", "a-b", "-"} {
		if w, err := Parse(s); err == nil {
			t.Errorf("%q became %v", s, w)
		}
	}
	berlin := time.FixedZone("Berlin", 3600)
	day := func(s string) time.Time {
		d, err := time.ParseInLocation("02 15:04:05", s, berlin)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, c := range []struct {
		window, now, change string
		open                bool
	}{
		{"22:00-06:00", "01 21:59:59", "01 22:00:00", false},
		{"22:00-06:00", "01 22:00:00", "02 06:00:00", true},
		{"22:00-06:00", "02 05:59:59", "02 06:00:00", true},
		{"22:00-06:00", "02 06:00:00", "02 22:00:00", false},
		{"09:30-12:00", "02 09:29:00", "02 09:30:00", false},
		{"09:30-12:00", "02 11:00:00", "02 12:00:00", true},
		{" 9:30-12:00 ", "31 12:00:00", "32", false},
	} {
		w, err := Parse(c.window)
		if err != nil {
			t.Fatal(err)
		}
		open, change := w.At(day(c.now))
		want := day("31 09:30:00").AddDate(0, 0, 1)
		if c.change != "32" {
			want = day(c.change)
		}
		if open != c.open || !change.Equal(want) {
			t.Errorf("%v at %s: open %v until %v", w, c.now, open, change)
		}
		if again, err := Parse(w.String()); err != nil || again != w {
			t.Errorf("%v was read as %v, %v", w, again, err)
		}
	}
	// Through a year with days of 23 and of 25 hours: the change is always yet
	// to come, and within a day.
	newYork, err := time.LoadLocation("America/New_York")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"22:00-06:00", "01:30-02:30", "02:30-01:30"} {
		w, err := Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		for now := time.Date(2026, 1, 1, 0, 0, 0, 0, newYork); now.Year() == 2026; now = now.Add(17 * time.Minute) {
			if _, change := w.At(now); !change.After(now) || change.Sub(now) > 25*time.Hour {
				t.Fatalf("%v at %v changes at %v", w, now, change)
			}
		}
	}
	if open, change := (Window{}).At(time.Now()); !open || !change.IsZero() {
		t.Error("no window is not always open")
	}
}
