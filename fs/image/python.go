package image

import (
	"context"
	"path"
	"regexp"
	"slices"
	"strings"
)

// What Python's start-up and a script's imports touch, of what CPython 3 documents
// (site, importlib, "The import system"): the standard library's modules as
// bytecode, those written in C, the first encodings, .pth files, and the packages
// that the script imports by name.

const (
	maxImports    = 64        // of one script
	maxImportText = 128 << 10 // bytes read of one for its imports
)

var (
	pythonName = regexp.MustCompile(`^python3(\.\d+)?$`)
	identifier = regexp.MustCompile(`[A-Za-z_][\w.]*`)
	// firstCodecs are the encodings that start-up needs, with UTF-8 or without.
	firstCodecs = regexp.MustCompile(`^(__init__|aliases|utf_8|latin_1|ascii)\.`)
	// firstPackages are imported by start-up itself or by nearly all scripts.
	firstPackages = []string{"collections", "importlib", "re", "json"}
	// rarePackages have names that stand in many texts.
	rarePackages = []string{"test", "idlelib", "lib2to3", "tkinter", "turtledemo", "distutils", "ensurepip", "encodings"}
)

// python fetches what a start of Python takes, if the files that a program takes
// to start have it among them. script is the program.
func (f *foresight) python(ctx context.Context, files []string) {
	i := slices.IndexFunc(files, func(name string) bool { return pythonName.MatchString(path.Base(name)) })
	if i < 0 {
		return
	}
	lib := f.pythonLibrary(ctx, files[i])
	if lib == "" {
		return
	}
	all := func(string) bool { return true }
	f.fetchDir(path.Join(lib, "__pycache__"), isModule)
	f.fetchDir(path.Join(lib, "lib-dynload"), all)
	f.fetchDir(path.Join(lib, "encodings/__pycache__"), firstCodecs.MatchString)
	homes := []string{lib, path.Join(lib, "site-packages"), path.Join(path.Dir(lib), "python3/dist-packages")}
	for _, home := range homes[1:] {
		f.fetchDir(home, func(name string) bool { return strings.HasSuffix(name, ".pth") })
	}
	var words []string
	if text, err := VolumeFiles(f.root).ReadFile(ctx, files[0], maxImportText); err == nil && i > 0 {
		words = modules(text)
	}
	for _, home := range homes {
		f.packages(ctx, home, append(slices.Clone(firstPackages), words...))
	}
}

// pythonLibrary is the standard library of an interpreter: python3.11 beside it.
func (f *foresight) pythonLibrary(ctx context.Context, interpreter string) string {
	files := VolumeFiles(f.root)
	lib := path.Join(path.Dir(path.Dir(interpreter)), "lib")
	name := path.Base(interpreter)
	if name == "python3" {
		names, err := files.ReadDir(ctx, lib, 4096)
		i := slices.IndexFunc(names, func(n string) bool { return n != name && pythonName.MatchString(n) })
		if err != nil || i < 0 {
			return ""
		}
		name = names[i]
	}
	return path.Join(lib, name)
}

// packages fetches the packages in the directory home that words name.
func (f *foresight) packages(ctx context.Context, home string, words []string) {
	files := VolumeFiles(f.root)
	dir, err := files.Resolve(ctx, home)
	if err != nil {
		return
	}
	names, err := files.ReadDir(ctx, dir.Path, 4096)
	if err != nil {
		return
	}
	there := map[string]bool{}
	for _, name := range names {
		there[name] = true
	}
	left := maxImports
	for _, word := range words {
		at := home
		for i, part := range strings.Split(word, ".") {
			if left == 0 || i == 0 && (!there[part] || slices.Contains(rarePackages, part)) {
				break
			}
			left--
			at = path.Join(at, part)
			f.fetchDir(path.Join(at, "__pycache__"), isModule)
		}
	}
}

// modules lists the words of a script's text that can be modules' names, be they
// imported by a statement or by a string.
func modules(text []byte) (words []string) {
	seen := map[string]bool{}
	for _, word := range identifier.FindAll(text, -1) {
		if w := strings.Trim(string(word), "."); !seen[w] {
			seen[w] = true
			words = append(words, w)
		}
	}
	return words
}
