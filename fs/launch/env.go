package launch

import (
	"bytes"
	"encoding/binary"
	"path"
	"slices"
	"sort"
	"strings"
)

// Var is one variable as the tool will see it.
type Var struct {
	Name, Value string
}

// passed holds the names that a tool may need from its caller.
var passed = []string{
	"TERM", "COLORTERM", "TZ", "USER", "LOGNAME", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK", "TMPDIR",
	"CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "FS_LICENSE", "SUBJECTS_DIR", "MLM_LICENSE_FILE", "LM_LICENSE_FILE", "MCR_CACHE_ROOT",
}

var passedPrefixes = []string{
	"OMP_", "MKL_", "OPENBLAS_", "ITK_", "SLURM_", "PBS_", "PMI", "OMPI_", "NVIDIA_", "FSL", "FREESURFER", "ANTS", "MRTRIX_", "AFNI_", "SPM_",
	"BIDS_", "TEMPLATEFLOW_",
}

// installed are those of the names above that tell where a tool is installed. An image that has the tool knows better than
// its caller, whose own installation may be another version, or at a place that is not there inside.
var installed = []string{"FSLDIR", "FSLTCLSH", "FSLWISH", "FREESURFER", "FREESURFER_HOME", "ANTSPATH"}

var passedSuffixes = []string{"_proxy", "_PROXY"}

// neverPrefixes and never are the names that break programs of an image, or the shell that reads the values, whatever a list says.
var neverPrefixes = []string{"LD_", "PYTHON", "R_", "PERL", "JULIA_", "BASH", "APPTAINER", "SINGULARITY", "SING_USER_"}

var never = []string{
	"PATH", "HOME", "PWD", "OLDPWD", "SHLVL", "_", "UID", "EUID", "GID", "PPID", "IFS", "OPTIND", "SHELLOPTS", "ENV", "PS1", "PROMPT_COMMAND", "SHELL",
	"LANG", "LANGUAGE",
}

func hasPrefix(list []string, name string) bool {
	return slices.ContainsFunc(list, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// harmful tells names that never pass on their own. Only APPTAINERENV_NAME or the policy's `set` gives them a value.
func harmful(name string) bool {
	return !validName(name) || slices.Contains(never, name) || hasPrefix(neverPrefixes, name) || strings.HasPrefix(name, "LC_")
}

func (a *AppPolicy) passes(name string) bool {
	if a.Env == "host" || slices.Contains(passed, name) || hasPrefix(passedPrefixes, name) {
		return true
	}
	for _, s := range passedSuffixes {
		if strings.HasSuffix(name, s) {
			return true
		}
	}
	return a.listed(name)
}

// listed tells names that the site has added to the allow-list.
func (a *AppPolicy) listed(name string) bool {
	for _, glob := range a.Pass {
		if ok, err := path.Match(glob, name); ok && err == nil {
			return true
		}
	}
	return false
}

// environment decides which variables the tool sees, sorted by name. HOME and PWD are the runtime's business.
func environment(h *Host, a *AppPolicy, t translator) []Var {
	vars := map[string]string{"PYTHONNOUSERSITE": "1"}
	locales := map[string]string{}
	forced := map[string]string{} // SINGULARITYENV_ first, so that APPTAINERENV_ wins
	for _, old := range []string{"SINGULARITYENV_", "APPTAINERENV_"} {
		for _, e := range h.Env {
			name, value, _ := strings.Cut(e, "=")
			if name, ok := strings.CutPrefix(name, old); ok && validName(name) && name != "HOME" {
				forced[name] = value
			}
		}
	}
	for _, e := range h.Env {
		name, value, ok := strings.Cut(e, "=")
		switch {
		case !ok:
		case name == "LANG" || strings.HasPrefix(name, "LC_") && validName(name):
			locales[name] = value
		case harmful(name) || !a.passes(name):
		default:
			inside, ok := t.value(value)
			foreign := inside == value && path.IsAbs(value) && slices.Contains(installed, name) && !a.listed(name)
			if ok && !(foreign && t.image.sets(name)) {
				vars[name] = inside
			}
		}
	}
	for name, value := range locale(t.image, locales) {
		vars[name] = value
	}
	for _, m := range []map[string]string{a.Set, forced} {
		for name, value := range m {
			vars[name] = value
		}
	}
	return sortedVars(vars)
}

func sortedVars(vars map[string]string) []Var {
	list := make([]Var, 0, len(vars))
	for name, value := range vars {
		list = append(list, Var{name, value})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list
}

// locale keeps the caller's locale where the image has it. A locale that is missing makes programs complain and fall back
// to ASCII; C.UTF-8 does neither, so it also stands in where the caller has none.
func locale(t imageTree, vars map[string]string) map[string]string {
	out := map[string]string{}
	known := map[string]bool{}
	for name, value := range vars {
		if value == "" {
			continue
		}
		has, seen := known[value]
		if !seen {
			has = t.hasLocale(value)
			known[value] = has
		}
		if !has {
			value = t.plainLocale()
		}
		out[name] = value
	}
	if out["LANG"] == "" {
		out["LANG"] = t.plainLocale()
	}
	return out
}

// localeDir is where the GNU C library keeps locales. Others have no such directory, and lack none.
const localeDir = "/usr/lib/locale"

// plainLocale is C.UTF-8, and C in images of distributions that had no such locale yet, as CentOS 7: perl and R complain of
// each start there.
func (t imageTree) plainLocale() string {
	const plain = "C.UTF-8"
	if !t.isDir(localeDir) || t.isDir(path.Join(localeDir, plain)) || t.hasLocale(plain) { // Debian did not normalise its name
		return plain
	}
	return "C"
}

// hasLocale looks for a locale in the two places where the GNU C library keeps them.
func (t imageTree) hasLocale(name string) bool {
	switch name {
	case "C", "POSIX":
		return true
	}
	if strings.ContainsAny(name, "/\x00") || len(name) > 64 {
		return false
	}
	base, codeset, ok := strings.Cut(name, ".")
	if ok { // as glibc normalises it: UTF-8 is utf8
		codeset, modifier, has := strings.Cut(codeset, "@")
		name = base + "." + strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(codeset))
		if has {
			name += "@" + modifier
		}
	}
	if t.isDir(path.Join(localeDir, name)) {
		return true
	}
	at, fi, err := t.resolve(localeDir + "/locale-archive")
	if err != nil || !fi.Mode().IsRegular() {
		return false
	}
	return archiveHas(t.host, path.Join(t.root, at), name)
}

// archiveHas reads the string table of a locale archive. The head is (glibc locale/locarchive.h) magic, serial, then
// offset, used and size of the name hash table, then offset, used and size of the string table, 32 bits each.
func archiveHas(h *Host, file, name string) bool {
	const magic, maxTable = 0xde020109, 256 << 10
	head, err := h.ReadAt(file, 0, 32)
	if err != nil || len(head) < 32 || binary.LittleEndian.Uint32(head) != magic {
		return false
	}
	off, used := binary.LittleEndian.Uint32(head[20:]), binary.LittleEndian.Uint32(head[24:])
	table, err := h.ReadAt(file, int64(off), int(min(used, maxTable)))
	return err == nil && bytes.Contains(append([]byte{0}, table...), []byte("\x00"+name+"\x00"))
}

// translator turns values that point into the image as the host sees it into the image's own paths.
type translator struct {
	image imageTree
	mount string // M
}

// value translates each element of a colon list. ok is false when nothing is left: a path into another image means
// nothing to this one, which has a value of its own.
func (t translator) value(value string) (string, bool) {
	if !strings.Contains(value, t.image.root) && (t.mount == "" || !strings.Contains(value, t.mount+"/")) {
		return value, true
	}
	var out []string
	for _, part := range strings.Split(value, ":") {
		if part, ok := t.path(part); ok {
			out = append(out, part)
		}
	}
	return strings.Join(out, ":"), len(out) > 0
}

func (t translator) path(name string) (string, bool) {
	if !path.IsAbs(name) {
		return name, true
	}
	clean := path.Clean(name)
	if within(clean, t.image.root) {
		return path.Join("/", clean[len(t.image.root):]), true
	}
	rest, ok := strings.CutPrefix(clean, t.mount+"/")
	if !ok || t.mount == "" {
		return name, true
	}
	parts := strings.SplitN(rest, "/", 5)
	switch {
	case len(parts) >= 4 && parts[0] == "apps" && parts[3] == "rootfs":
		// The link's last three parts are images/HASH/rootfs, the same as ours when it is the same image.
		link, err := t.image.host.Readlink(path.Join(t.mount, "apps", parts[1], parts[2], "rootfs"))
		if err != nil || lastParts(link, 2) != lastParts(t.image.root, 2) {
			return "", false
		}
		return path.Join(append([]string{"/"}, parts[4:]...)...), true
	case len(parts) >= 4 && parts[0] == ".neurodeskfs" && parts[1] == "images":
		return "", false
	}
	return name, true
}

// lastParts gives the last n components of a path.
func lastParts(name string, n int) string {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '/' {
			if n--; n == 0 {
				return name[i+1:]
			}
		}
	}
	return name
}
