package installer

import (
	"fmt"
	"strings"

	"prestage/internal/acl"
)

// A table replaces or adds a table of the MSI.
type table struct {
	name    string
	columns string // names and types, as in "Property:s72 Value:l0"
	keys    string
	rows    [][]string
}

// idt renders the table in the archive format of Windows Installer.
func (t table) idt() string {
	var names, types []string
	for _, c := range strings.Fields(t.columns) {
		name, typ, _ := strings.Cut(c, ":")
		names, types = append(names, name), append(types, typ)
	}
	lines := [][]string{names, types, append([]string{t.name}, strings.Fields(t.keys)...)}
	var b strings.Builder
	for _, l := range append(lines, t.rows...) {
		b.WriteString(strings.Join(l, "\t") + "\r\n")
	}
	return b.String()
}

// publicProperties are those that an administrator gives on the command line.
var publicProperties = []string{
	"INSTALLDIR", "VMSFOLDER", "SERVER_ADDRESS", "SERVER_PORT", "SERVER_SSL", "TRUSTED_KEY", "START_AUTOMATICALLY", "START_MEDV",
	"DESKTOP_SHORTCUT", "MINIMAL_RAM_REQUIRED", "SKIP_OS_CHECK", "INSTALL_ADMIN_TOOLS",
}

// foundProperties are what the installation finds out for itself. All
// properties must be handed from the part that runs as the user to the part that
// runs as the system.
var foundProperties = []string{
	"WIX_DOWNGRADE_DETECTED", "WIX_UPGRADE_DETECTED", "FOUND_WINDOWS10", "FOUND_WINE", "FOUND_VMSFOLDER", "FOUND_PRESTAGED", "FOUND_POLICY",
	"FOUND_LITERAL", "FOUND_PROFILE", "FOUND_INSTALLDIR", "FOUND_SHORTCUT", "FOUND_ADMINTOOLS", "FOUND_START",
	"KEEP_STORE", "SERVICE_START",
}

// Attributes of components.
const (
	permanent  = 16 // stays when the product goes: "prestage installer remove" decides
	transitive = 64 // comes and goes with its condition, when the product is installed again
)

// components are those of client.wxs, with what wixl drops: attributes and
// conditions. The conditions hold at removal, because Wine looks at them then.
var components = []struct {
	name       string
	attributes int
	condition  string
}{
	{"Program", 0, ""},
	{"Documents", 0, ""},
	{"AdminTools", transitive, `REMOVE OR INSTALL_ADMIN_TOOLS="1"`},
	{"DesktopShortcut", transitive, `REMOVE OR DESKTOP_SHORTCUT="1"`},
	// What is set already is kept, whatever form it has: the program deals with it.
	{"ImageStore", 0, `REMOVE OR NOT KEEP_STORE`},
	{"ImageStoreValue", permanent, `NOT KEEP_STORE`},
	{"PrestageFolder", 0, `REMOVE OR NOT (FOUND_PRESTAGED OR FOUND_LITERAL OR FOUND_POLICY)`},
	{"PrestageFolderValue", permanent, `NOT (FOUND_PRESTAGED OR FOUND_LITERAL OR FOUND_POLICY)`},
	{"LiteralValue", permanent, `FOUND_LITERAL AND NOT (FOUND_LITERAL << "#") AND NOT (FOUND_PRESTAGED OR FOUND_POLICY)`},
	{"ServerAddress", permanent, `SERVER_ADDRESS`},
	{"ServerPort", permanent, `SERVER_PORT`},
	{"ServerSsl", permanent, `SERVER_SSL`},
	{"TrustedKeyValue", permanent, `TRUSTED_KEY`},
	{"Remembered", 0, ""},
	{"EventSource", 0, ""},
}

// Types of custom actions (Windows Installer, "Summary List of All Custom Action Types").
const (
	setProperty = 51
	// The program that has just been installed, later, as the system.
	runLater   = 18 + 1024 + 2048
	atRollback = 256
	goOn       = 64 // whatever its exit code is
)

// An action is a custom action with its place in the sequence.
type action struct {
	name, condition string
	sequence        int
	typ             int
	source, target  string
	text            string // for the log
}

// fits is the condition that a property holds a folder "MED-V Images" on a drive.
func fits(property string) string {
	return fmt.Sprintf(`%[1]s >< ":\" AND NOT (%[1]s << "\\") AND NOT (%[1]s << "#") AND NOT (%[1]s >< "\..\") AND `+
		`(%[1]s >> "\MED-V Images" OR %[1]s >> "\MED-V Images\")`, property)
}

// actions are the custom actions. Those that set properties run in both
// sequences: with a user interface, costing would settle the folders before the
// execute sequence begins.
var actions = []action{
	{"KeepStore", `NOT VMSFOLDER AND FOUND_VMSFOLDER`, 810, setProperty, "KEEP_STORE", "1", ""},
	{"FoundStore", `NOT VMSFOLDER AND ` + fits("FOUND_VMSFOLDER"), 811, setProperty, "VMSFOLDER", "[FOUND_VMSFOLDER]", ""},
	{"DefaultStore", `NOT VMSFOLDER`, 812, setProperty, "VMSFOLDER", "[WindowsVolume]MED-V Images", ""},
	{"FoundInstallDir", `NOT INSTALLDIR AND FOUND_INSTALLDIR`, 813, setProperty, "INSTALLDIR", "[FOUND_INSTALLDIR]", ""},
	{"FoundShortcut", `NOT DESKTOP_SHORTCUT AND FOUND_SHORTCUT`, 814, setProperty, "DESKTOP_SHORTCUT", "[FOUND_SHORTCUT]", ""},
	{"DefaultShortcut", `NOT DESKTOP_SHORTCUT`, 815, setProperty, "DESKTOP_SHORTCUT", "1", ""},
	{"FoundAdminTools", `NOT INSTALL_ADMIN_TOOLS AND FOUND_ADMINTOOLS`, 816, setProperty, "INSTALL_ADMIN_TOOLS", "[FOUND_ADMINTOOLS]", ""},
	{"DefaultAdminTools", `NOT INSTALL_ADMIN_TOOLS`, 817, setProperty, "INSTALL_ADMIN_TOOLS", "0", ""},
	{"FoundStart", `NOT START_AUTOMATICALLY AND FOUND_START="#2"`, 818, setProperty, "START_AUTOMATICALLY", "1", ""},
	{"DefaultStart", `NOT START_AUTOMATICALLY`, 819, setProperty, "START_AUTOMATICALLY", "0", ""},
	{"StartByHand", `NOT (START_AUTOMATICALLY="1")`, 820, setProperty, "SERVICE_START", "demand", ""},
	{"StartByItself", `START_AUTOMATICALLY="1"`, 821, setProperty, "SERVICE_START", "auto", ""},

	{"RestoreFolders", removing, 3480, runLater + atRollback + goOn, "prestage.exe", "installer apply",
		"Making the pre-stage folder again"},
	{"RemoveFoldersIfEmpty", removing, 3490, runLater + goOn, "prestage.exe", "installer remove",
		"Removing the folder MED-V Images if it holds no package and no image; otherwise packages, images and settings are left in place"},
	{"UndoFolders", `NOT REMOVE AND NOT Installed AND NOT WIX_UPGRADE_DETECTED`, 5840, runLater + atRollback + goOn, "prestage.exe", "installer undo",
		"Removing what was made of the pre-stage folder"},
	{"ApplyFolders", `NOT REMOVE`, 5850, runLater, "prestage.exe", "installer apply --start [SERVICE_START]",
		"Making the image store and the pre-stage folder with their rights, and configuring the service"},
}

// removing is the condition that the product goes, and no other version comes.
const removing = `REMOVE="ALL" AND NOT UPGRADINGPRODUCTCODE`

// launchConditions must hold before anything is done; else the text is shown.
func launchConditions(arch string) [][]string {
	rows := [][]string{
		{`NOT WIX_DOWNGRADE_DETECTED`, "A newer version of prestage is installed. To go back to this one, remove the newer one first."},
		// Wine plays any version of Windows, which says nothing of what it can do.
		{`Installed OR SKIP_OS_CHECK="1" OR FOUND_WINDOWS10 OR FOUND_WINE`,
			"prestage needs Windows 10, Windows Server 2016 or later. SKIP_OS_CHECK=1 leaves this check out."},
		{`REMOVE OR NOT MINIMAL_RAM_REQUIRED OR MINIMAL_RAM_REQUIRED >= 1`,
			"MINIMAL_RAM_REQUIRED is [MINIMAL_RAM_REQUIRED] and must be a number of megabytes."},
		{`Installed OR NOT (MINIMAL_RAM_REQUIRED >= 1) OR PhysicalMemory >= MINIMAL_RAM_REQUIRED`,
			"This machine has [PhysicalMemory] MB of memory, and MINIMAL_RAM_REQUIRED asks for [MINIMAL_RAM_REQUIRED] MB."},
		{`REMOVE OR NOT SERVER_PORT OR (SERVER_PORT >= 1 AND SERVER_PORT <= 65535)`,
			"SERVER_PORT is [SERVER_PORT] and must be a port, 1 to 65535."},
		{`REMOVE OR NOT (SERVER_ADDRESS >< " " OR (SERVER_ADDRESS >< "/" AND NOT (SERVER_ADDRESS >< "://")))`,
			"SERVER_ADDRESS is [SERVER_ADDRESS] and must be the name or address of a server, or a URL."},
		{`REMOVE OR NOT TRUSTED_KEY OR TRUSTED_KEY << "RW"`,
			"TRUSTED_KEY is [TRUSTED_KEY] and must be a public key: the line of its file that begins with RW."},
		{`REMOVE OR NOT VMSFOLDER OR (` + fits("VMSFOLDER") + `)`,
			"VMSFOLDER is [VMSFOLDER] and must be a folder on a drive that is called exactly MED-V Images, as in C:\\MED-V Images."},
	}
	for _, p := range []string{"SERVER_SSL", "START_AUTOMATICALLY", "START_MEDV", "DESKTOP_SHORTCUT", "SKIP_OS_CHECK", "INSTALL_ADMIN_TOOLS"} {
		rows = append(rows, []string{fmt.Sprintf(`REMOVE OR NOT %[1]s OR %[1]s="0" OR %[1]s="1"`, p),
			fmt.Sprintf("%s is [%s] and must be 1 (yes) or 0 (no).", p, p)})
	}
	if arch == "x86" {
		rows = append(rows, []string{`Installed OR NOT VersionNT64`, "This is the client for 32-bit Windows. Install the one for x64 on this machine."})
	}
	return rows
}

// tables returns the tables that are made here as a whole.
func tables(arch, productVersion string) []table {
	custom := table{"CustomAction", "Action:s72 Type:i2 Source:S72 Target:S255 ExtendedType:I4", "Action", nil}
	texts := table{"ActionText", "Action:s72 Description:L64 Template:L128", "Action", nil}
	for _, a := range actions {
		custom.rows = append(custom.rows, []string{a.name, fmt.Sprint(a.typ), a.source, a.target, ""})
		if a.text != "" {
			texts.rows = append(texts.rows, []string{a.name, a.text, ""})
		}
	}
	// What group policy or the administrator chose before; the rights are those
	// that the program sets.
	const strict = `FOUND_PROFILE="strict"`
	return []table{
		custom, texts,
		{"LaunchCondition", "Condition:s255 Description:l255", "Condition", launchConditions(arch)},
		{"Upgrade", "UpgradeCode:s38 VersionMin:S20 VersionMax:S20 Language:S255 Attributes:i4 Remove:S255 ActionProperty:s72",
			"UpgradeCode VersionMin VersionMax Language Attributes", [][]string{
				// 1: settle features as they were. 512: the version itself too, so
				// that another build of it replaces this one. 2: only find out.
				{"{" + upgradeCode + "}", "", productVersion, "", fmt.Sprint(1 | 512), "", "WIX_UPGRADE_DETECTED"},
				{"{" + upgradeCode + "}", productVersion, "", "", "2", "", "WIX_DOWNGRADE_DETECTED"},
			}},
		{"MsiLockPermissionsEx", "MsiLockPermissionsEx:s72 LockObject:s72 Table:s32 SDDLText:s0 Condition:S255", "MsiLockPermissionsEx", [][]string{
			{"ImageStore", "VMSFOLDER", "CreateFolder", acl.Images.SDDL(), "NOT (" + strict + ")"},
			{"ImageStoreStrict", "VMSFOLDER", "CreateFolder", acl.StrictImages.SDDL(), strict},
			{"PrestageFolder", "PRESTAGEDFOLDER", "CreateFolder", acl.Prestaged.SDDL(), ""},
		}},
		{"Environment", "Environment:s72 Name:l255 Value:L255 Component_:s72", "Environment", [][]string{
			// = write, - remove with the component, * of the machine; after what is there
			{"Path", "=-*PATH", "[~];[INSTALLDIR]", "AdminTools"},
		}},
	}
}

// queries returns the changes to tables that wixl makes.
func queries(arch, productVersion string) []string {
	secure := strings.Join(append(append([]string{}, publicProperties...), foundProperties...), ";")
	list := []string{
		fmt.Sprintf("UPDATE `Property` SET `Value`='%s' WHERE `Property`='SecureCustomProperties'", secure),
		// In the transaction, so that a failure brings the old version back.
		"UPDATE `InstallExecuteSequence` SET `Sequence`=1501 WHERE `Action`='RemoveExistingProducts'",
		"UPDATE `InstallExecuteSequence` SET `Condition`='VersionNT AND START_MEDV=\"1\"' WHERE `Action`='StartServices'",
		// Without it, the program counts as older than any, and is not repaired.
		fmt.Sprintf("UPDATE `File` SET `Version`='%s.0', `Language`='1033' WHERE `File`='prestage.exe'", productVersion),
		"UPDATE `File` SET `FileName`='THIRDP~1.TXT|THIRD_PARTY_NOTICES.txt' WHERE `File`='NOTICES.txt'",
		"UPDATE `File` SET `FileName`='PRESTA~1.PS1|prestage-completion.ps1' WHERE `File`='completion.ps1'",
		// #% makes it a REG_EXPAND_SZ.
		"UPDATE `Registry` SET `Value`='#%%SystemRoot%\\System32\\EventCreate.exe' WHERE `Name`='EventMessageFile'",
		"UPDATE `Directory` SET `DefaultDir`='MED-V~1|MED-V Images' WHERE `Directory`='VMSFOLDER'",
		"UPDATE `Directory` SET `DefaultDir`='PRESTA~1|PrestagedImages' WHERE `Directory`='PRESTAGEDFOLDER'",
		"UPDATE `Shortcut` SET `Name`='PRESTAGE|MED-V image pre-staging' WHERE `Shortcut`='DesktopShortcut'",
	}
	sequence := func(table, name, condition string, number int) {
		list = append(list, fmt.Sprintf("INSERT INTO `%s` (`Action`, `Condition`, `Sequence`) VALUES ('%s', '%s', %d)", table, name, condition, number))
	}
	sequence("InstallExecuteSequence", "RemoveEnvironmentStrings", "", 3300)
	sequence("InstallExecuteSequence", "WriteEnvironmentStrings", "", 5200)
	for _, a := range actions {
		sequence("InstallExecuteSequence", a.name, a.condition, a.sequence)
		if a.typ == setProperty {
			sequence("InstallUISequence", a.name, a.condition, a.sequence)
		}
	}
	for _, c := range components {
		if c.name == "LiteralValue" && arch != "x64" {
			continue // 32-bit Windows has one place alone
		}
		attributes := c.attributes
		switch {
		case strings.HasSuffix(c.name, "Value"), strings.HasPrefix(c.name, "Server"), c.name == "Remembered", c.name == "EventSource":
			attributes |= 4 // the key path is a registry value
		}
		if arch == "x64" && !(attributes&4 != 0 && c.name != "EventSource") {
			attributes |= 256 // 64-bit
		}
		list = append(list, fmt.Sprintf("UPDATE `Component` SET `Condition`='%s', `Attributes`=%d WHERE `Component`='%s'", c.condition, attributes, c.name))
	}
	return list
}
