package image

import (
	"context"
	"debug/elf"
	"errors"
	iofs "io/fs"
	"path"
	"slices"
	"strings"
)

// loaded is an object that a starting program has loaded.
type loaded struct {
	*object
	at     string // as the linker found it, which $ORIGIN means
	file   string // links followed
	parent *loaded
}

// process is a program while it is linked.
type process struct {
	musl  bool
	all   []*loaded
	names map[string]bool // that need not be looked for again
}

// link adds the loader of a program and its libraries, breadth first, as the
// linkers load them.
func (l *Linker) link(ctx context.Context, s *Started, program *loaded) error {
	p := &process{all: []*loaded{program}, names: map[string]bool{}}
	if name := program.interpreter; name != "" {
		if l.ahead != nil {
			l.ahead(name)
		}
		l.announce(ctx, p, program)
		at, err := l.files.Resolve(ctx, name)
		if errors.Is(err, iofs.ErrNotExist) || err == nil && !at.IsProgram() {
			s.Missing = append(s.Missing, Missing{name, program.file, "the loader is not in the image"})
			return nil
		}
		if err != nil {
			return err
		}
		s.add(at.Path)
		p.musl = strings.HasPrefix(path.Base(name), "ld-musl")
		p.names[path.Base(name)] = true
		loader, err := l.object(ctx, at.Path)
		if err != nil {
			return err
		}
		if loader == nil || !program.fits(loader) {
			s.Missing = append(s.Missing, Missing{name, program.file, "the loader is for another machine"})
			return nil
		}
		p.names[loader.soname] = true
	}
	for i := 0; i < len(p.all) && i < maxLibraries; i++ {
		if i > 0 {
			l.announce(ctx, p, p.all[i])
		}
		for _, name := range p.all[i].needed {
			if err := l.library(ctx, s, p, p.all[i], name); err != nil {
				return err
			}
		}
	}
	return nil
}

// announce tells ahead of the libraries that by needs, where they are new.
func (l *Linker) announce(ctx context.Context, p *process, by *loaded) {
	if l.ahead == nil {
		return
	}
	for _, name := range by.needed {
		if p.names[name] || strings.Contains(name, "/") {
			continue
		}
		for _, at := range l.candidates(p, by, name) {
			if _, known := l.known[at]; known {
				break
			}
			if f, err := l.files.Resolve(ctx, at); err == nil && f.IsRegular() {
				l.ahead(f.Path)
				break
			}
		}
	}
}

// library adds the library name, which by needs.
func (l *Linker) library(ctx context.Context, s *Started, p *process, by *loaded, name string) error {
	if p.names[name] || p.musl && muslOwn(name) {
		return nil
	}
	p.names[name] = true
	lib, other, err := l.find(ctx, p, by, name)
	switch {
	case err != nil:
		return err
	case lib == nil && fromDriver(name):
		s.Host = append(s.Host, name)
	case lib == nil:
		s.Missing = append(s.Missing, Missing{name, by.file, other})
	case !slices.ContainsFunc(p.all, func(o *loaded) bool { return o.file == lib.file }):
		s.add(lib.file)
		p.names[lib.soname] = true
		p.all = append(p.all, lib)
	}
	return nil
}

// fromDriver reports whether a library comes with the graphics driver of the
// host, which the runtime brings in (--nv).
func fromDriver(name string) bool {
	for _, prefix := range []string{"libcuda.so", "libcudadebugger.so", "libnvidia-", "libnvcuvid.so", "libnvoptix.so"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// muslOwn reports whether musl's loader is that library itself (musl's
// ldso/dynlink.c, load_library).
func muslOwn(name string) bool {
	name, isLib := strings.CutPrefix(name, "lib")
	name, _, _ = strings.Cut(name, ".")
	return isLib && slices.Contains([]string{"c", "pthread", "rt", "m", "dl", "util", "xnet"}, name)
}

// find looks for a library where the linker does. If there is none, why says
// what is there instead.
func (l *Linker) find(ctx context.Context, p *process, by *loaded, name string) (lib *loaded, why string, err error) {
	why = "not in the image"
	var candidates []string
	switch {
	case path.IsAbs(name):
		candidates = []string{name}
	case strings.Contains(name, "/"):
		return nil, "depends on the directory in which the program is started", nil
	default:
		candidates = l.candidates(p, by, name)
	}
	for _, at := range candidates {
		o, file, err := l.at(ctx, at)
		if err != nil {
			return nil, "", err
		}
		if o != nil && by.fits(o) {
			return &loaded{object: o, at: at, file: file, parent: by}, "", nil
		}
		if o != nil {
			why = at + " is for another machine (" + o.architecture() + ")"
		}
	}
	for _, dir := range l.conf {
		if o, _, err := l.at(ctx, path.Join(dir, name)); err == nil && o != nil && by.fits(o) {
			return nil, dir + " of ld.so.conf has it, ld.so.cache has not: run ldconfig", nil
		}
	}
	return nil, why, nil
}

// at reads the object of that name; nil if there is none.
func (l *Linker) at(ctx context.Context, name string) (*object, string, error) {
	at, err := l.files.Resolve(ctx, name)
	if errors.Is(err, iofs.ErrNotExist) || err == nil && !at.IsRegular() {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	o, err := l.object(ctx, at.Path)
	return o, at.Path, err
}

// candidates are the paths at which a bare name is looked for, in order.
func (l *Linker) candidates(p *process, by *loaded, name string) (list []string) {
	in := func(dirs []string) {
		for _, dir := range dirs {
			list = append(list, dir+"/"+name)
		}
	}
	if p.musl {
		in(l.libraries)
		for o := by; o != nil; o = o.parent {
			in(o.expand(o.rpath))
			in(o.expand(o.runpath))
		}
		in([]string{"/lib", "/usr/local/lib", "/usr/lib"})
		return list
	}
	if by.runpath == "" {
		for o := by; o != nil; o = o.parent {
			in(o.expand(o.rpath))
		}
	}
	in(l.libraries)
	in(by.expand(by.runpath))
	list = append(list, l.cache[name]...)
	in(by.standard())
	for _, plain := range list[:len(list):len(list)] {
		for _, variant := range hwcaps[by.architecture()] {
			list = append(list, path.Join(path.Dir(plain), "glibc-hwcaps", variant, path.Base(plain)))
		}
	}
	return list
}

// hwcaps are the directories of libraries that are made for certain processors, by
// architecture (ld.so(8), glibc's sysdeps/*/dl-hwcaps-subdirs.c), the most general
// first. Which of them a processor takes is not for an image to say: they stand
// behind all others.
var hwcaps = map[string][]string{
	"x86_64":  {"x86-64-v2", "x86-64-v3", "x86-64-v4"},
	"ppc64le": {"power9", "power10"},
	"s390x":   {"z13", "z14", "z15", "z16"},
}

// standard are the directories that are built into glibc's linker: Debian's,
// and those of all others.
func (o *object) standard() []string {
	dirs := []string{"/lib", "/usr/lib"}
	if triplet := o.triplet(); triplet != "" {
		dirs = append([]string{"/lib/" + triplet, "/usr/lib/" + triplet}, dirs...)
	}
	if o.class == byte(elf.ELFCLASS64) {
		dirs = append([]string{"/lib64", "/usr/lib64"}, dirs...)
	}
	return dirs
}

// triplet names the directory of Debian's multiarch.
func (o *object) triplet() string {
	switch a := o.architecture(); a {
	case "x86_64", "aarch64", "riscv64", "s390x", "i386":
		return a + "-linux-gnu"
	case "ppc64le":
		return "powerpc64le-linux-gnu"
	case "arm":
		return "arm-linux-gnueabihf"
	}
	return ""
}

// expand takes a DT_RPATH apart. $LIB means what either family of systems has.
func (o *loaded) expand(list string) (dirs []string) {
	if list == "" {
		return nil
	}
	origin := strings.NewReplacer("$ORIGIN", path.Dir(o.at), "${ORIGIN}", path.Dir(o.at), "$PLATFORM", o.architecture(), "${PLATFORM}", o.architecture())
	for _, dir := range absolute(origin.Replace(list)) {
		if !strings.Contains(dir, "$LIB") && !strings.Contains(dir, "${LIB}") {
			dirs = append(dirs, dir)
			continue
		}
		for _, lib := range []string{"lib/" + o.triplet(), "lib64", "lib"} {
			dirs = append(dirs, strings.NewReplacer("$LIB", lib, "${LIB}", lib).Replace(dir))
		}
	}
	return dirs
}
