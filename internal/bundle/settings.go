package bundle

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"prestage/ckm"
	"prestage/internal/prestage"
	"prestage/internal/settings"
)

// Settings are what the client is installed with.
type Settings struct {
	VMSFolder string `json:"vmsfolder"` // Windows path of the image store
	Server    string `json:"server"`    // URL of the image server, or none
}

// DefaultVMSFolder is the image store of clients if no other is named.
const DefaultVMSFolder = `C:\` + prestage.ImagesFolder

// NewSettings checks what the user named and brings it into its one spelling.
func NewSettings(vmsFolder, server string) (Settings, error) {
	s := Settings{VMSFolder: vmsFolder}
	if len(vmsFolder) > 3 { // E:\ stays what it is, and is refused with advice
		s.VMSFolder = strings.TrimRight(vmsFolder, `\`)
	}
	var err error
	if s.Server, err = serverURL(server); err != nil {
		return Settings{}, err
	}
	return s, s.check()
}

// check refuses settings that are not in their one spelling.
func (s Settings) check() error {
	if err := checkVMSFolder(s.VMSFolder); err != nil {
		return err
	}
	server, err := serverURL(s.Server)
	if err == nil && server != s.Server {
		err = fmt.Errorf("the server is %q and should be written %q", s.Server, server)
	}
	return err
}

// cmdSpecial are the characters that Windows' command interpreter acts on, some
// of them between quotation marks too.
const cmdSpecial = "\"%!^&|<>`"

// checkText refuses text that a line of start.cmd could not hold between
// quotation marks as it is.
func checkText(what, s string) error {
	for _, r := range s {
		switch {
		case r < ' ' || r == 0x7f:
			return fmt.Errorf("%s holds a control character", what)
		case r > 0x7f:
			return fmt.Errorf("%s holds %q, and scripts on Windows are sure of ASCII alone; use other characters", what, r)
		case strings.ContainsRune(cmdSpecial, r):
			return fmt.Errorf("%s holds %q, which Windows' command interpreter would act on; use other characters", what, r)
		}
	}
	return nil
}

// checkVMSFolder accepts a folder "MED-V Images" on a drive.
func checkVMSFolder(path string) error {
	if err := checkText("the image store (--vmsfolder)", path); err != nil {
		return err
	}
	fail := func(why string) error {
		return fmt.Errorf("the image store (--vmsfolder) is %q and must %s%s", path, why, advice(path))
	}
	if len(path) < 3 || !isLetter(path[0]) || path[1] != ':' || path[2] != '\\' {
		return fail("be an absolute path on a drive of the client")
	}
	elements := path[3:]
	if strings.Contains(elements, "/") {
		return fail(`be written with \`)
	}
	if strings.HasSuffix(path, `\`) || strings.Contains(path, `\\`) {
		return fail("name a folder, without empty elements")
	}
	if err := ckm.CheckPath(strings.ReplaceAll(elements, `\`, "/")); err != nil {
		return fail("be a path that Windows can have")
	}
	if len(path) > 200 {
		return errors.New("the image store (--vmsfolder) has a path of more than 200 characters; images would lie too deep")
	}
	if last := elements[strings.LastIndexByte(elements, '\\')+1:]; last != prestage.ImagesFolder {
		return fail(fmt.Sprintf("end in %q", prestage.ImagesFolder))
	}
	return nil
}

// advice is the path that was probably meant, if it is a good one.
func advice(path string) string {
	p := strings.ReplaceAll(path, "/", `\`)
	drive := ""
	if len(p) > 1 && p[1] == ':' && isLetter(p[0]) {
		drive, p = p[:2], p[2:]
	}
	if drive == "" {
		drive = "C:"
	}
	var elements []string
	for _, e := range strings.Split(p, `\`) {
		if e = strings.TrimRight(strings.TrimSpace(e), "."); e != "" {
			elements = append(elements, e)
		}
	}
	if n := len(elements); n > 0 && meansImages(elements[n-1]) {
		elements = elements[:n-1]
	}
	better := drive + `\` + strings.Join(append(elements, prestage.ImagesFolder), `\`)
	if better == path || checkVMSFolder(better) != nil {
		return fmt.Sprintf("; for instance %q", DefaultVMSFolder)
	}
	return fmt.Sprintf("; use %q", better)
}

// meansImages reports whether somebody who wrote s may have meant "MED-V Images".
func meansImages(s string) bool {
	plain := strings.NewReplacer(" ", "", "-", "", "_", "")
	return strings.HasPrefix(strings.ToLower(plain.Replace(s)), "medvimage")
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// serverURL brings a server's address into the spelling that settings have,
// and refuses one that the installer's properties cannot say.
func serverURL(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	fail := func(why string) (string, error) {
		return "", fmt.Errorf("the server (--server) %s: the client is told its name, its port and whether it speaks https, nothing else; use for instance https://images.example/MEDVImages/", why)
	}
	if err := checkText("the server (--server)", s); err != nil {
		return "", err
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return fail("is not a URL")
	case u.User != nil:
		return fail("names a user")
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return fail(fmt.Sprintf("%q is not an http:// or https:// address", s))
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#"):
		return fail(fmt.Sprintf("%q has more than a path", s))
	case u.Path != "" && u.Path != "/" && u.Path != "/"+ImagesFolder && u.Path != "/"+ImagesFolder+"/":
		return fail(fmt.Sprintf("%q has another folder than /%s/", s, ImagesFolder))
	case strings.Trim(u.Hostname(), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:") != "":
		return fail(fmt.Sprintf("%q has no name that a host can have", s))
	case strings.HasPrefix(u.Hostname(), "-"):
		return fail(fmt.Sprintf("%q has a name that begins with -", s))
	}
	u.Path = "/" + ImagesFolder + "/"
	u.Host = strings.TrimSuffix(u.Host, ":")
	s = u.String()
	if _, port, _ := settings.SplitServer(s); port == 0 {
		return fail(fmt.Sprintf("%q has no port from 1 to 65535", s))
	}
	return s, nil
}
