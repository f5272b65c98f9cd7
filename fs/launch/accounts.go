package launch

import (
	"path"
	"slices"
	"strconv"
	"strings"
)

// maxAccounts bounds the bytes read of a passwd or group file.
const maxAccounts = 1 << 20

// account is the caller as getpwuid(3) would tell it, from /etc/passwd alone.
type account struct {
	name, gecos, home, shell string
	uid, gid                 int
}

// caller finds the account of the process. Where the host's passwd lacks it (LDAP, sssd), the variables help out.
func (h *Host) caller() account {
	a := account{uid: h.UID, gid: h.GID, name: h.getenv("USER"), shell: h.getenv("SHELL")}
	text, _ := h.ReadAt("/etc/passwd", 0, maxAccounts) // without one the defaults hold
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(f) >= 7 && f[2] == strconv.Itoa(h.UID) {
			a.name, a.gecos, a.home, a.shell = f[0], f[4], f[5], f[6]
			break
		}
	}
	clean := func(s string) bool { return !strings.ContainsAny(s, ":\n\x00") }
	if a.name == "" || !clean(a.name) {
		a.name = "user" + strconv.Itoa(h.UID)
	}
	if a.shell == "" || !clean(a.shell) {
		a.shell = "/bin/sh"
	}
	return a
}

// home is the caller's home directory, as the runtimes tell it: HOME, else the account's; "" where that is none.
func (h *Host) home() string {
	usable := func(home string) bool { return path.IsAbs(home) && path.Clean(home) != "/" }
	home := h.getenv("HOME")
	if !usable(home) { // rare, so that the file is not read for every start
		home = h.caller().home
	}
	if !usable(home) {
		return ""
	}
	return path.Clean(home)
}

// passwd is the image's passwd file with the caller in it, as apptainer writes it: an entry of the same number keeps
// its name and gets the caller's home, else a line is added.
func (a account) passwd(image []byte, home string) []byte {
	var out strings.Builder
	found := false
	for line := range strings.Lines(string(image)) {
		line = strings.TrimRight(line, "\n")
		f := strings.Split(line, ":")
		if len(f) == 7 && f[2] == strconv.Itoa(a.uid) {
			if found = true; home != "" {
				f[5] = home
			}
			line = strings.Join(f, ":")
		}
		out.WriteString(line + "\n")
	}
	if !found {
		number := strconv.Itoa(a.uid) + ":" + strconv.Itoa(a.gid)
		out.WriteString(strings.Join([]string{a.name, "x", number, a.gecos, home, a.shell}, ":") + "\n")
	}
	return []byte(out.String())
}

// group is the image's group file with a line for each group of the caller that the host can name, in the order in
// which apptainer adds them: by the number as text.
func (h *Host) group(image []byte, a account) []byte {
	out := string(image)
	if out != "" && !strings.HasSuffix(out, "\n") {
		out += "\n"
	}
	text, _ := h.ReadAt("/etc/group", 0, maxAccounts) // a host without it names no group
	names := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if f := strings.Split(line, ":"); len(f) >= 4 && names[f[2]] == "" {
			names[f[2]] = f[0]
		}
	}
	var numbers []string
	for _, gid := range append([]int{h.GID}, h.Groups...) {
		numbers = append(numbers, strconv.Itoa(gid))
	}
	slices.Sort(numbers)
	for _, n := range slices.Compact(numbers) {
		if names[n] != "" {
			out += names[n] + ":x:" + n + ":" + a.name + "\n"
		}
	}
	return []byte(out)
}

// accountFiles are the image's passwd and group with the caller added; nil where the image has none, as under apptainer.
func (t imageTree) accountFiles(home string) (passwd, group []byte) {
	read := func(name string) []byte {
		at, fi, err := t.resolve(name)
		if err != nil || !fi.Mode().IsRegular() || fi.Size() > maxAccounts {
			return nil
		}
		text, err := t.host.ReadAt(path.Join(t.root, at), 0, int(fi.Size()))
		if err != nil {
			return nil
		}
		return append([]byte{}, text...)
	}
	who := t.host.caller()
	if text := read("/etc/passwd"); text != nil {
		passwd = who.passwd(text, home)
	}
	if text := read("/etc/group"); text != nil {
		group = t.host.group(text, who)
	}
	return passwd, group
}
