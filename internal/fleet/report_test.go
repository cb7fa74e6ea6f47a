package fleet

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"prestage/internal/host"
	"prestage/internal/prestage"
)

var update = flag.Bool("update", false, "write the reports in testdata")

// sample is a run in which all that can happen has happened, on machines that
// mean us no good.
func sample() *Report {
	begun := time.Date(2026, 5, 1, 20, 0, 0, 0, time.UTC)
	verified := begun.Add(90 * time.Second)
	name := func(s string) Machine { return Machine{Name: s, Kind: KindSMB, Group: "floor2"} }
	digest := strings.Repeat("0123456789abcdef", 4)
	pushed := func(already bool, moved int64, images ...string) (o Outcome) {
		for i, image := range images {
			o.Pushed(&prestage.Pushed{Already: already, Moved: moved, Size: 5 << 30, Receipt: &prestage.Receipt{
				Name: image, Version: uint32(3 - 2*i), PackageDigest: digest, Verified: verified, How: prestage.HowReadback}}, 75*time.Second)
		}
		return o
	}
	good, had, bent := pushed(false, 5<<30, "win11", "tools"), pushed(true, 0, "win11", "tools"), pushed(false, 1<<20, "win11", "tools")
	clean := prestage.Status{Location: `C:\MED-V Images\PrestagedImages`, Folders: []prestage.FolderStatus{{Path: `C:\MED-V Images`}},
		Packages: []prestage.PackageStatus{{Name: "win11", Version: 3}, {Name: "other", Version: 1, Deviations: []string{"not ours"}}}}
	good.Examined(&clean, false)
	had.Examined(&clean, false)
	bent.Examined(&prestage.Status{Location: `D:\MED-V Images\PrestagedImages`, Stray: []string{"=notes.txt"},
		Folders: []prestage.FolderStatus{{Path: `D:\MED-V Images`, Deviations: []string{"Everyone may write"}}},
		Packages: []prestage.PackageStatus{{Name: "win11", Version: 3,
			Deviations: []string{"win11_3.ckm: it is not marked read-only"}}}}, false)
	hostile := `<script src="http://evil.example/x.js">alert(1)</script>"'><img src=//evil.example/i onerror=alert(1)>` + "\u202e\x1b[2J\xff {{.}} ]]> <!-- &amp;"
	half := pushed(false, 1<<30, "win11")
	half.Images = append(half.Images, Image{Name: "tools:1", Moved: 12345, Took: time.Second, Step: "copying",
		Err: fmt.Errorf("writing: %w", prestage.ErrDamaged)})
	results := []Result{
		{Machine: name("pc-001"), State: Done, Outcome: good, Attempts: 1, Begun: begun, Took: 90 * time.Second},
		{Machine: name("pc-002"), State: Already, Outcome: had, Attempts: 2, Begun: begun, Took: time.Second},
		{Machine: name("pc-003"), State: Failed, Attempts: 1, Begun: begun, Took: 1500 * time.Millisecond,
			Outcome: Outcome{Step: "connecting", Err: fmt.Errorf("session setup: %w", host.ErrLogon)}},
		{Machine: name("pc-004"), State: Unreachable, Attempts: 9, Begun: begun, Took: time.Minute, Reason: "the window 22:00-06:00 ended",
			Outcome: Outcome{Step: "connecting", Err: fmt.Errorf("dial: %w", host.ErrUnreachable)}},
		{Machine: name("pc-005"), State: Done, Outcome: bent, Attempts: 1, Begun: begun, Took: time.Hour},
		{Machine: name("pc-006"), State: Failed, Outcome: half, Attempts: 1, Begun: begun, Took: time.Minute},
		{Machine: name("pc-007"), State: Interrupted, Attempts: 1, Begun: begun, Took: time.Minute, Reason: "the run was interrupted",
			Outcome: Outcome{Images: []Image{{Name: "win11:3", Step: "copying", Moved: 77, Err: errors.New("cut")}}}},
		{Machine: name("=cmd|' /C calc'!A0"), State: NotBegun, Reason: "pc-003, one of the first 3, did not succeed"},
		{Machine: name("@x" + hostile), State: Failed, Attempts: 1, Begun: begun,
			Outcome: Outcome{Location: hostile, Step: "-step", Err: errors.New("+" + hostile), Deviations: []string{hostile}}},
		{Machine: name("pc-008"), State: Failed, Attempts: 1, Begun: begun, Outcome: Outcome{Step: "registry", Err: fs.ErrPermission}},
	}
	return NewReport("push", []string{"win11:3", "tools:1"}, begun, begun.Add(2*time.Hour), results)
}

// A machine that is done, but has nothing to show for an image, is not.
func TestMissingReceipt(t *testing.T) {
	m := NewReport("push", []string{"win11:3"}, time.Now(), time.Now(), []Result{{State: Done}}).Machines[0]
	if i := m.Images[0]; !m.Attention() || i.State != Failed || i.Error == "" || i.Advice == "" {
		t.Errorf("%+v", m)
	}
}

// The forms of a report are read by programs: a change of them is seen here.
func TestGolden(t *testing.T) {
	for _, ext := range []string{".json", ".csv", ".html"} {
		path := filepath.Join(t.TempDir(), "out"+strings.ToUpper(ext))
		if err := sample().Save(path); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", "report"+ext)
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("the report is not %s; if that is meant: go test ./internal/fleet -update\n%s", golden, got)
		}
	}
}

func TestSaveRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, file := range []string{"x.txt", "x", ".jso", ""} {
		if err := CheckReportFile(filepath.Join(dir, file)); err == nil || !strings.Contains(err.Error(), ".json, .csv or .html") {
			t.Errorf("%q: %v", file, err)
		}
		if err := sample().Save(filepath.Join(dir, file)); err == nil {
			t.Errorf("%q was written", file)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("the folder holds %v", left)
	}
	if err := sample().Save(filepath.Join(dir, "no", "x.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

func TestReportSaysWhatIsWrong(t *testing.T) {
	r := sample()
	if r.OK() || r.Verdict() != "8 of 10 machines need attention." {
		t.Errorf("%v, %s", r.OK(), r.Verdict())
	}
	if want := map[State]int{Done: 2, Already: 1, Failed: 4, Unreachable: 1, Interrupted: 1, NotBegun: 1}; !reflect.DeepEqual(r.Counts, want) {
		t.Errorf("counts %v", r.Counts)
	}
	for _, m := range r.Machines {
		if m.Attention() && (len(m.Problems()) == 0 || len(m.Advices()) == 0) {
			t.Errorf("%s needs attention: %q, %q", m.Machine, m.Problems(), m.Advices())
		}
		if len(m.Images) != 2 {
			t.Errorf("%s has %d images", m.Machine, len(m.Images))
		}
	}
	first := r.attention()[0]
	if first.State != Failed || !strings.Contains(first.Problems()[0], "connecting: session setup") || !strings.Contains(first.Advices()[0], "password") {
		t.Errorf("first comes %s: %q, %q", first.Machine, first.Problems(), first.Advices())
	}
	good := &Report{Machines: r.Machines[:1]}
	if good.Machines[0].Images = good.Machines[0].Images[:1]; !good.OK() || good.Verdict() != "The machine is as it should be." {
		t.Errorf("%v, %s", good.OK(), good.Verdict())
	}
}

func TestJSONFields(t *testing.T) {
	var b bytes.Buffer
	if err := NewReport("status", nil, time.Now(), time.Now(), []Result{{State: Done}}).WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(strings.ReplaceAll(b.String(), `"begun": null`, ""), "null") {
		t.Errorf("lists that are empty are not null:\n%s", b.String())
	}
	var r Report
	if err := json.Unmarshal(b.Bytes(), &r); err != nil || len(r.Machines) != 1 || r.Machines[0].State != Done {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestCSVIsHarmless(t *testing.T) {
	var b bytes.Buffer
	if err := sample().WriteCSV(&b); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), "\n"); n != strings.Count(b.String(), "\r\n") || n != 21 {
		t.Errorf("%d lines", n)
	}
	rows, err := csv.NewReader(&b).ReadAll()
	if err != nil || len(rows) != 21 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	for _, row := range rows {
		for _, cell := range row {
			if cell != "" && strings.ContainsAny(cell[:1], "=+-@\t\r") {
				t.Errorf("%q would be calculated", cell)
			}
		}
	}
	if got := rows[15][0]; got != "'=cmd|' /C calc'!A0" {
		t.Errorf("the machine is %q", got)
	}
}

// The page is well formed, so that nothing of a machine's is taken for part of
// it, and it names nothing outside of itself.
func TestHTMLStandsAlone(t *testing.T) {
	var b bytes.Buffer
	if err := sample().WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	elements := map[string]int{}
	known := strings.Fields("html head meta title style body header h1 p ul li b span dl dt dd main section h2 table thead tbody tr th td code script")
	attributes := strings.Fields("lang charset http-equiv content name class scope data-sort")
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the page is not well formed: %v", err)
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		elements[start.Name.Local]++
		if !slices.Contains(known, start.Name.Local) {
			t.Errorf("there is an element %s", start.Name.Local)
		}
		for _, a := range start.Attr {
			if !slices.Contains(attributes, a.Name.Local) {
				t.Errorf("element %s has %s=%q", start.Name.Local, a.Name.Local, a.Value)
			}
		}
	}
	if elements["script"] != 1 || elements["style"] != 1 || elements["table"] != 2 || elements["code"] != 20 {
		t.Errorf("elements: %v", elements)
	}
	for _, outside := range []string{"url(", "@import", "fetch(", "XMLHttpRequest", "import("} {
		if strings.Contains(text, outside) {
			t.Errorf("the page has %s", outside)
		}
	}
	// The policy that keeps other scripts out lets this one in.
	script := regexp.MustCompile(`(?s)<script>(.*)</script>`).FindStringSubmatch(text)
	policy := regexp.MustCompile(`sha256-([^']+)'`).FindStringSubmatch(strings.NewReplacer("&#43;", "+", "&#39;", "'").Replace(text))
	if script == nil || policy == nil {
		t.Fatal("there is no script or no policy")
	}
	if sum := sha256.Sum256([]byte(script[1])); policy[1] != base64.StdEncoding.EncodeToString(sum[:]) {
		t.Errorf("the policy lets %s in", policy[1])
	}
	for _, bad := range []string{"\u202e", "\x1b", "<img", "onerror=alert(1)>\""} {
		if strings.Contains(text, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	if strings.Index(text, "Machines that need attention") > strings.Index(text, "All machines") {
		t.Error("machines that need attention do not come first")
	}
}

func TestCleanBoundsTexts(t *testing.T) {
	if got := Clean(strings.Repeat("ü", maxText)); len(got) > maxText+10 || !strings.HasSuffix(got, "…") {
		t.Errorf("%d bytes", len(got))
	}
	if got := Clean("a\nb\tc\x00d\u202ee\ufefff"); got != "a b c\ufffdd\ufffde\ufffdf" {
		t.Errorf("%q", got)
	}
}

// A status run has no receipts in hand: what the machine says is taken.
func TestExaminedAll(t *testing.T) {
	verified := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	var o Outcome
	o.Examined(&prestage.Status{Location: "/data", Packages: []prestage.PackageStatus{
		{Name: "a", Version: 1, FileSize: 7, Verified: &verified}, {Name: "b", Version: 2, Deviations: []string{"x"}}}}, true)
	if !o.Checked || len(o.Images) != 2 || o.Images[0].Size != 7 || !o.Images[0].Verified.Equal(verified) || o.Images[1].Deviations[0] != "x" {
		t.Errorf("%+v", o)
	}
	r := NewReport("status", nil, verified, verified, []Result{{State: Already, Outcome: o}})
	if r.OK() || r.Machines[0].Images[0].Attention() || !r.Machines[0].Images[1].Attention() {
		t.Errorf("%+v", r)
	}
}
