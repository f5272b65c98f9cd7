package image

import (
	"bytes"
	"context"
	"errors"
	iofs "io/fs"
	"path"
	"slices"
	"strings"
)

// Linker finds what programs of one image need in order to start, as the kernel
// (execve(2)) and the dynamic linkers of glibc (ld.so(8)) and musl would. It runs
// nothing. What a program loads later by itself (dlopen) is not seen. A library
// made for certain processors (glibc-hwcaps) counts where there is no other. Not
// safe for concurrent use.
type Linker struct {
	files     Files
	path      []string              // PATH of the image
	libraries []string              // LD_LIBRARY_PATH of the image
	cache     map[string][]string   // ld.so.cache: name -> paths
	conf      []string              // ld.so.conf's directories
	known     map[string]*object    // by path in the image; nil: no ELF file
	ahead     func(names ...string) // told of files before they are read one by one; nil: nobody is
}

// Started is what starting a program takes.
type Started struct {
	// Files are those that are read: the program itself, its `#!` interpreters, the
	// loader and, link by link, the libraries, each once, links followed, in the
	// order in which they are opened. What the image lacks is left out.
	Files        []string
	Missing      []Missing
	Host         []string // libraries that the host's driver brings: libcuda.so.1
	Architecture string   // of the program: x86_64; "": it is no ELF file, nor its interpreter
}

// Missing is what keeps a program from starting.
type Missing struct {
	Name string // of the file that is not there, or cannot be used
	By   string // the file that wants it
	Why  string
}

const (
	maxHead      = 256  // bytes of a `#!` line that the kernel reads
	maxScripts   = 5    // interpreters of interpreters: BINPRM_MAX_RECURSION and the first
	maxLibraries = 2048 // of one program
)

// NewLinker reads the image's environment and the linker's cache.
func NewLinker(ctx context.Context, files Files) (*Linker, error) {
	vars, err := files.Environment(ctx)
	if err != nil {
		return nil, err
	}
	l := &Linker{files: files, known: map[string]*object{}, path: absolute(vars["PATH"]), libraries: absolute(vars["LD_LIBRARY_PATH"])}
	if l.cache, err = readCache(ctx, files); err == nil {
		l.conf, err = readConf(ctx, files)
	}
	return l, err
}

// absolute are the directories of a list; those that depend on where a program
// is started count as not there.
func absolute(list string) []string {
	return slices.DeleteFunc(strings.Split(list, ":"), func(dir string) bool { return !path.IsAbs(dir) })
}

// Search looks for a bare name in the image's PATH. found is "" if no file of it
// can be run; plain is then one that has the name and cannot.
func (l *Linker) Search(ctx context.Context, name string) (found, plain string, err error) {
	for _, dir := range l.path {
		at, err := l.files.Resolve(ctx, dir+"/"+name)
		switch {
		case errors.Is(err, iofs.ErrNotExist):
		case err != nil:
			return "", "", err
		case at.IsProgram():
			return path.Join(dir, name), "", nil
		case plain == "" && at.IsRegular():
			plain = path.Join(dir, name)
		}
	}
	return "", plain, nil
}

// Start finds what starting name, an absolute path in the image, takes. Errors
// are the tree's; what is wrong with the image is in Missing.
func (l *Linker) Start(ctx context.Context, name string) (Started, error) {
	var s Started
	err := l.start(ctx, &s, name, "", maxScripts)
	return s, err
}

// start adds what name takes, which by wants: a program, or an interpreter.
func (l *Linker) start(ctx context.Context, s *Started, name, by string, depth int) error {
	miss := func(why string) error {
		s.Missing = append(s.Missing, Missing{name, by, why})
		return nil
	}
	at, err := l.files.Resolve(ctx, name)
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		return miss("not in the image")
	case err != nil:
		return err
	case at.IsDir():
		return miss("a directory")
	case !at.IsProgram():
		return miss("not executable")
	}
	s.add(at.Path)
	head, err := l.files.ReadFile(ctx, at.Path, maxHead)
	if err != nil {
		return err
	}
	if line, script := bytes.CutPrefix(head, []byte("#!")); script {
		if depth--; depth == 0 {
			return miss("an interpreter of too many interpreters")
		}
		line, _, _ = bytes.Cut(line, []byte("\n"))
		return l.script(ctx, s, at.Path, string(line), depth)
	}
	o, err := l.object(ctx, at.Path)
	if err != nil {
		return err
	}
	if o == nil {
		if at.Path == "/bin/sh" || by != "" {
			return miss("neither an ELF file nor a script")
		}
		return l.start(ctx, s, "/bin/sh", at.Path, depth-1) // as shells do with what the kernel refuses
	}
	s.Architecture = o.architecture()
	return l.link(ctx, s, &loaded{object: o, at: at.Path, file: at.Path})
}

// script adds the interpreter of a `#!` line, and what env is told to look for.
func (l *Linker) script(ctx context.Context, s *Started, file, line string, depth int) error {
	words := strings.Fields(line)
	if len(words) == 0 {
		s.Missing = append(s.Missing, Missing{"#!", file, "names no interpreter"})
		return nil
	}
	if !path.IsAbs(words[0]) {
		s.Missing = append(s.Missing, Missing{words[0], file, "no absolute path"})
		return nil
	}
	if err := l.start(ctx, s, words[0], file, depth); err != nil || path.Base(words[0]) != "env" {
		return err
	}
	for _, word := range words[1:] {
		if strings.HasPrefix(word, "-") || strings.Contains(word, "=") {
			continue
		}
		if path.IsAbs(word) {
			return l.start(ctx, s, word, file, depth)
		}
		found, plain, err := l.Search(ctx, word)
		if found == "" && err == nil {
			why := "not in the image's PATH"
			if plain != "" {
				why = plain + " is not executable"
			}
			s.Missing = append(s.Missing, Missing{word, file, why})
			return nil
		}
		if err != nil {
			return err
		}
		return l.start(ctx, s, found, file, depth)
	}
	return nil
}

func (s *Started) add(file string) {
	if !slices.Contains(s.Files, file) {
		s.Files = append(s.Files, file)
	}
}

// object reads an ELF file once; nil is what is none.
func (l *Linker) object(ctx context.Context, file string) (*object, error) {
	if o, known := l.known[file]; known {
		return o, nil
	}
	o, err := readObject(l.files.reader(ctx, file))
	if errors.Is(err, errNotELF) {
		o, err = nil, nil
	}
	if err == nil {
		l.known[file] = o
	}
	return o, err
}
