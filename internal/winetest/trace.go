//go:build linux

package winetest

import (
	"regexp"
	"strconv"
	"strings"
)

// SecurityRequest is one request of a program that the system give a file or a
// folder a security descriptor. Wine keeps no DACLs, so what was asked for is
// all that can be seen.
type SecurityRequest struct {
	Path    string // as Windows has it, or empty if it is neither file nor folder
	Created bool   // with the descriptor from its first moment on
	Info    uint32 // which parts are to be set, as SECURITY_INFORMATION; 0 if created
	Control uint32 // SECURITY_DESCRIPTOR_CONTROL
	Owner   string // SID
	Entries []Entry
}

// Entry is an entry of a DACL.
type Entry struct {
	Type        string // as ACCESS_ALLOWED
	Flags, Mask uint32
	SID         string
}

var (
	traceLine  = regexp.MustCompile(`^([0-9a-f]{4}): (\w+)\((.*)\)( = .*)?$`)
	traceReply = regexp.MustCompile(`^([0-9a-f]{4}): (\w+)\(\) = (.*)$`)
	traceSD    = regexp.MustCompile(`sd=\{control=([0-9a-f]+),owner=([^,]*),.*?,dacl=\{((?:\{[^{}]*\},?)*)\}`)
	traceEntry = regexp.MustCompile(`\{type=(\w+),flags=([0-9a-f]+),mask=([0-9a-f]+),sid=([^}]*)\}`)
	traceName  = regexp.MustCompile(`rootdir=([0-9a-f]+),.*,name=L"((?:[^"\\]|\\.)*)"\}`)
)

// SecurityRequests reads Result.Trace of a command that was run with the Debug
// value +server.
func SecurityRequests(trace string) (list []SecurityRequest) {
	type handle struct{ process, number string }
	process := map[string]string{} // by thread
	paths := map[handle]string{}
	opening := map[string]SecurityRequest{} // by thread
	starting := map[string]bool{}           // threads that start one in their own process
	for line := range strings.Lines(trace) {
		line = strings.TrimSuffix(line, "\n")
		if m := traceReply.FindStringSubmatch(line); m != nil {
			thread, call, ok := m[1], m[2], strings.HasPrefix(m[3], "0 ")
			switch call {
			case "init_first_thread":
				process[thread] = field(m[3], "pid")
			case "new_thread":
				if ok && starting[thread] {
					process[field(m[3], "tid")] = process[thread]
				}
			case "create_file":
				if r := opening[thread]; ok {
					paths[handle{process[thread], field(m[3], "handle")}] = r.Path
					if len(r.Entries) > 0 {
						list = append(list, r)
					}
				}
			}
			continue
		}
		m := traceLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		thread, call, args := m[1], m[2], m[3]
		switch call {
		case "new_thread":
			starting[thread] = field(args, "process") == "ffffffff"
		case "create_file":
			r := SecurityRequest{Created: true}
			if name := traceName.FindStringSubmatch(args); name != nil {
				r.Path = strings.TrimPrefix(strings.ReplaceAll(name[2], `\\`, `\`), `\??\`)
				if folder := paths[handle{process[thread], name[1]}]; folder != "" {
					r.Path = folder + `\` + r.Path
				}
			}
			// Only a new one gets the descriptor: create is not FILE_OPEN.
			if field(args, "create") != "1" {
				r.descriptor(args)
			}
			opening[thread] = r
		case "close_handle":
			delete(paths, handle{process[thread], field(args, "handle")})
		case "set_security_object":
			r := SecurityRequest{Path: paths[handle{process[thread], field(args, "handle")}], Info: hex(field(args, "security_info"))}
			r.descriptor(args)
			list = append(list, r)
		}
	}
	return list
}

// descriptor reads the security descriptor among a request's arguments.
func (r *SecurityRequest) descriptor(args string) {
	m := traceSD.FindStringSubmatch(args)
	if m == nil {
		return
	}
	r.Control, r.Owner = hex(m[1]), m[2]
	for _, e := range traceEntry.FindAllStringSubmatch(m[3], -1) {
		r.Entries = append(r.Entries, Entry{e[1], hex(e[2]), hex(e[3]), e[4]})
	}
}

// field returns the value of name=value in a trace line.
func field(s, name string) string {
	_, rest, _ := strings.Cut(" "+s, " "+name+"=")
	if i := strings.IndexAny(rest, ", })"); i >= 0 {
		return rest[:i]
	}
	return rest
}

func hex(s string) uint32 {
	n, _ := strconv.ParseUint(s, 16, 32)
	return uint32(n)
}
