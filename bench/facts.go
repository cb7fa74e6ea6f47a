//go:build linux

package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// facts says under which conditions the numbers came about, in words that fit
// any machine of the same kind.
func (b *bench) facts() string {
	var s strings.Builder
	fmt.Fprintf(&s, "Machine: %s.\n", machine())
	info, err := os.Stat(b.image)
	if err == nil {
		stat := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&s, "Image: raw, %.1f GiB virtual, %.1f GiB of it not holes.\n",
			gib(info.Size()), gib(stat.Blocks*512))
	}
	fmt.Fprintf(&s, "Versions: %s.\n", strings.Join(b.versions(), ", "))
	fmt.Fprintf(&s, "Numbers: %s.\n", b.howOften())
	return s.String()
}

func (b *bench) howOften() string {
	if b.rounds == 1 {
		return "one round"
	}
	return fmt.Sprintf("medians of %d rounds", b.rounds)
}

// pushFacts is facts for pushing.
func (b *bench) pushFacts() string {
	var s strings.Builder
	fmt.Fprintf(&s, "Machine: %s, which is both sides.\n", machine())
	all := []string{b.firstLine(b.prestage, "version")}
	if size, err := packageSize(b.path("images")); err == nil {
		fmt.Fprintf(&s, "Package: %.0f MiB for one machine, %.0f MiB for each of many.\n", float64(size)/mib, float64(b.scale.each)/mib)
	}
	if smbd := b.tools["smbd"]; smbd != "" {
		_, v, _ := strings.Cut(b.firstLine(smbd, "--version"), " ")
		all = append(all, "Samba "+v)
	}
	if b.tools["sftp"] != "" {
		v, _, _ := strings.Cut(b.firstLine("sh", "-c", "ssh -V 2>&1"), ",")
		all = append(all, v)
	}
	fmt.Fprintf(&s, "Versions: %s.\nNumbers: %s.\n", strings.Join(all, ", "), b.howOften())
	return s.String()
}

// firstLine is the first line of what a command says.
func (b *bench) firstLine(argv ...string) string {
	out, _ := b.output(argv...)
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return strings.TrimSpace(line)
}

// versions names the programs that took part.
func (b *bench) versions() []string {
	first := b.firstLine
	var all []string
	if v := first(b.prestage, "version"); v != "" {
		all = append(all, v)
	}
	if b.desync != "" {
		// desync does not say its version, but every Go binary carries it.
		out, _ := b.output("go", "version", "-m", b.desync)
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); len(f) >= 3 && f[0] == "mod" {
				all = append(all, "desync "+f[2])
			}
		}
	}
	if b.casync != "" {
		all = append(all, first(b.casync, "--version"))
	}
	if b.zstd != "" {
		_, v, _ := strings.Cut(first(b.zstd, "--version"), " v")
		v, _, _ = strings.Cut(v, ",")
		all = append(all, "zstd "+v)
	}
	if v := first("cp", "--version"); v != "" {
		all = append(all, strings.NewReplacer("cp (", "", ")", "").Replace(v))
	}
	return all
}

// machine says in general words what kind of machine this is.
func machine() string {
	words := []string{fmt.Sprintf("%d cores, %s", runtime.NumCPU(), runtime.GOARCH)}
	if f, err := os.Open("/proc/meminfo"); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if x := strings.Fields(lines.Text()); len(x) > 1 && x[0] == "MemTotal:" {
				if kib, err := strconv.ParseInt(x[1], 10, 64); err == nil {
					words = append(words, fmt.Sprintf("%.0f GiB of memory", gib(kib*1024)))
				}
			}
		}
	}
	// What these are worth to a hash decides the verify row.
	if cpu, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		flags := strings.Fields(string(cpu))
		for _, flag := range []string{"avx2", "avx512f", "sha_ni"} {
			if slices.Contains(flags, flag) {
				words = append(words, flag)
			}
		}
	}
	return strings.Join(words, ", ")
}

func gib(n int64) float64 { return float64(n) / (1 << 30) }
