package launch

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
)

var errNotDir error = syscall.ENOTDIR

// Bind shows Src of the host at Dst in the container. Both are absolute. Opts is "", "ro" or what the user wrote.
type Bind struct {
	Src, Dst, Opts string
}

// imageOwns names the top-level directories whose content must come from the image, or which the runtime makes itself.
func imageOwns(top string) bool {
	switch top {
	case "bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "opt", "etc", "var", "boot", "root",
		"proc", "sys", "dev", "run", "lost+found", "snap":
		return true
	}
	return strings.HasPrefix(top, ".")
}

// kernelFile tells file systems that are the kernel's own, wherever they are mounted: nobody keeps data there.
func kernelFile(fstype string) bool {
	switch fstype {
	case "proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "securityfs", "debugfs", "tracefs", "selinuxfs", "mqueue",
		"pstore", "bpf", "configfs", "binfmt_misc", "efivarfs", "hugetlbfs", "rpc_pipefs":
		return true
	}
	return false
}

// binder collects the binds of one start.
type binder struct {
	host    *Host
	image   imageTree
	mounts  []hostMount
	hidden  []string // top-level names that must not be covered: the command lies there
	binds   []Bind
	contain bool
}

// covered tells whether a path of the host is the same file inside.
func (b *binder) covered(name string) bool {
	if !b.contain && (within(name, "/proc") || within(name, "/sys") || within(name, "/dev")) {
		return true
	}
	return b.behind(name) == name
}

// behind gives the host's path that a path inside shows, "" where no bind does. The deepest bind decides.
func (b *binder) behind(name string) string {
	best := Bind{}
	for _, x := range b.binds {
		if within(name, x.Dst) && len(x.Dst) >= len(best.Dst) {
			best = x
		}
	}
	if best.Dst == "" {
		return ""
	}
	return path.Join(best.Src, name[len(best.Dst):])
}

// add puts a bind in the list; a later one for the same place takes the earlier one's place.
func (b *binder) add(x Bind) {
	for i := range b.binds {
		if b.binds[i].Dst == x.Dst {
			b.binds[i] = x
			return
		}
	}
	b.binds = append(b.binds, x)
}

// topLevel binds the host's data directories. It looks at / and at nothing below: no file system gets mounted by it.
func (b *binder) topLevel(args []string) {
	entries, err := b.host.TopLevel()
	if err != nil {
		return
	}
	for _, e := range entries {
		name, full := e.Name(), "/"+e.Name()
		if imageOwns(name) || slices.Contains(b.hidden, name) {
			continue
		}
		switch fstype := topmost(b.mounts, full); {
		case fstype == "autofs":
			b.add(Bind{Src: full, Dst: full})
		case kernelFile(fstype):
		case e.IsDir():
			if b.host.Search(full) {
				b.add(Bind{Src: full, Dst: full})
			}
		case e.Type()&fs.ModeSymlink != 0:
			b.topLink(full, args)
		}
	}
}

// topLink binds what a top-level link such as /data -> /var/lib/data leads to: under the link's name, and under its own
// where no other bind shows it.
func (b *binder) topLink(full string, args []string) {
	target, err := b.host.Readlink(full)
	if err != nil {
		return
	}
	target = path.Join("/", target)
	first, _, _ := strings.Cut(target[1:], "/")
	if target == "/" || b.underAutofs(target) && !slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, full+"/") }) {
		return // looking would mount it, and nobody asked for it
	}
	if fi, err := b.host.Stat(full); err != nil || !fi.IsDir() || !b.host.Search(full) {
		return
	}
	b.add(Bind{Src: full, Dst: full})
	if imageOwns(first) && target != "/"+first && !b.covered(target) && !b.image.holdsSomething(target) {
		b.add(Bind{Src: target, Dst: target})
	}
}

// underAutofs tells whether looking at a path could make the automounter act.
func (b *binder) underAutofs(name string) bool {
	for _, m := range b.mounts {
		if m.fstype == "autofs" && within(name, m.point) {
			return true
		}
	}
	return false
}

// explicit binds one directory or file as that very path. It is refused where it would hide what the image brings:
// a whole system directory, or a place where the image has files of its own.
func (b *binder) explicit(name string, opts string) error {
	if b.covered(name) {
		return nil
	}
	first, rest, _ := strings.Cut(strings.TrimPrefix(name, "/"), "/")
	switch first {
	case "proc", "sys", "dev":
		return fmt.Errorf("%s belongs to the container", name)
	case "root":
	case "usr", "etc", "bin", "sbin", "lib", "lib32", "lib64", "libx32": // even an empty directory there may be on PATH
		if _, _, err := b.image.resolve(name); err == nil {
			return fmt.Errorf("%s of the host would hide the image's own", name)
		}
	case "var", "run", "boot":
		shallow := rest != "tmp" && !strings.Contains(rest, "/")
		if rest == "" || shallow && b.image.holdsSomething(name) {
			return fmt.Errorf("%s of the host would hide the image's own", name)
		}
	default:
		if (rest == "" && imageOwns(first) && !strings.HasPrefix(first, ".")) || slices.Contains(b.hidden, first) && rest == "" || b.image.holdsSomething(name) {
			return fmt.Errorf("%s of the host would hide the image's own", name)
		}
	}
	b.add(Bind{Src: name, Dst: name, Opts: opts})
	return nil
}

// ErrBindSpec is returned for an entry of a bind list that cannot be understood.
var ErrBindSpec = errors.New("want SRC[:DST[:OPTIONS]] with absolute paths")

// parseBind reads SRC[:DST[:OPTS]]; a backslash makes the next colon, comma or backslash part of a path.
func parseBind(spec, cwd string) (Bind, error) {
	parts := splitEscaped(spec, ':')
	if len(parts) > 3 || parts[0] == "" {
		return Bind{}, ErrBindSpec
	}
	x := Bind{Src: parts[0]}
	if !path.IsAbs(x.Src) {
		if cwd == "" {
			return Bind{}, ErrBindSpec
		}
		x.Src = path.Join(cwd, x.Src)
	}
	x.Src = path.Clean(x.Src)
	x.Dst = x.Src
	if len(parts) > 1 && parts[1] != "" {
		x.Dst = path.Clean(parts[1])
	}
	if len(parts) > 2 {
		x.Opts = parts[2]
	}
	if !path.IsAbs(x.Dst) || x.Dst == "/" || strings.ContainsAny(x.Opts, ":\"\n\\ ") {
		return Bind{}, ErrBindSpec
	}
	return x, nil
}

// splitList cuts a *_BINDPATH value at its commas. A piece that begins no path belongs to the options before it.
func splitList(value string) []string {
	var list []string
	start, esc := 0, false
	for i := 0; i <= len(value); i++ {
		switch {
		case i < len(value) && esc:
			esc = false
		case i < len(value) && value[i] == '\\':
			esc = true
		case i == len(value) || value[i] == ',':
			piece := strings.TrimSpace(value[start:i])
			option := piece == "ro" || piece == "rw" || strings.HasPrefix(piece, "image-src=") || strings.HasPrefix(piece, "id=")
			if option && len(list) > 0 {
				list[len(list)-1] += "," + piece
			} else if piece != "" {
				list = append(list, piece)
			}
			start = i + 1
		}
	}
	return list
}

func splitEscaped(s string, sep byte) []string {
	var parts []string
	var part strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && strings.IndexByte(`:,\`, s[i+1]) >= 0:
			i++
			part.WriteByte(s[i])
		case s[i] == sep:
			parts = append(parts, part.String())
			part.Reset()
		default:
			part.WriteByte(s[i])
		}
	}
	return append(parts, part.String())
}

// wanted adds binds that a person or a site asked for. Those whose source is not on this host are left out and named.
func (b *binder) wanted(specs []string) (missing []string) {
	for _, spec := range specs {
		x, err := parseBind(spec, b.host.Cwd)
		if err != nil {
			missing = append(missing, fmt.Sprintf("%s (%v)", clip(spec), err))
			continue
		}
		if _, err := b.host.Stat(x.Src); err != nil {
			missing = append(missing, clip(x.Src))
			continue
		}
		b.add(x)
	}
	return missing
}
