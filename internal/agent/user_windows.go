package agent

import "golang.org/x/sys/windows"

// workingUser returns who works at the machine's screen, "" if nobody does, or it
// cannot be told: only the system may ask.
func workingUser() string {
	const noSession = 0xffffffff
	session := windows.WTSGetActiveConsoleSessionId()
	if session == noSession {
		return ""
	}
	var token windows.Token
	if windows.WTSQueryUserToken(session, &token) != nil {
		return ""
	}
	defer token.Close()
	u, err := token.GetTokenUser()
	if err != nil {
		return ""
	}
	name, domain, _, err := u.User.Sid.LookupAccount("")
	if err != nil {
		return ""
	}
	return domain + `\` + name
}
