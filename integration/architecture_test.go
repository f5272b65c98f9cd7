package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/integration/checkout"
)

const ours = "github.com/neurodesk/neurodeskfs"

// listed is what `go list` says of one package.
type listed struct {
	ImportPath, Dir, Name     string
	Standard                  bool
	Module                    *struct{ Path string }
	GoFiles                   []string
	TestGoFiles, XTestGoFiles []string
	Imports                   []string
	TestImports, XTestImports []string
}

// path is the package's path inside the module.
func (p listed) path() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, ours), "/")
}

func (p listed) files() []string { return slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) }

func (p listed) allImports() []string {
	return slices.Concat(p.Imports, p.TestImports, p.XTestImports)
}

// golist runs `go list` in the module's root.
func golist(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,Name,Standard,Module,GoFiles,TestGoFiles,XTestGoFiles,Imports,TestImports,XTestImports"}, args...)...)
	cmd.Dir = sourceRoot(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var list []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

// sourceRoot is the folder of go.mod.
func sourceRoot(t *testing.T) string {
	t.Helper()
	dir, err := checkout.Dir()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// A rule says who may import what. Either only lists the importers, or the
// importers are listed in never.
type rule struct {
	what   string   // an import path; with /... what lies below it too
	only   []string // packages of ours that may import it
	never  []string // packages of ours that may not
	reason string
}

var rules = []rule{
	{"net/http", nil, []string{"fs", "fs/tree", "fs/image", "fs/session", "fs/volume", "cache"}, "the mount knows volumes, not where their bytes come from"},
	{"go.etcd.io/bbolt/...", []string{"cache"}, nil, "the index is the cache's own and can be rebuilt; nobody else may keep truth in it"},
	{"zombiezen.com/go/sqlite/...", []string{"cvmfs/catalog"}, nil, "only the catalog package knows the schema, and guards against hostile databases"},
	{"modernc.org/...", []string{"cvmfs/catalog"}, nil, "SQLite belongs to cvmfs/catalog"},
	{"github.com/sylabs/sif/...", []string{"fs/image"}, nil, "the SIF header must be bounded before the library sees it, which fs/image does"},
	{"github.com/hanwen/go-fuse/...", []string{"fs", "fs/session", "integration/bench"}, nil, "volumes are plain trees; the protocol ends in fs and fs/session (the bench has a file system to compare with)"},
	{"github.com/hashicorp/go-retryablehttp", []string{"cvmfs/fetch"}, nil, "one place decides on hosts, proxies and retries"},
	{"github.com/BurntSushi/toml", []string{"cmd/config", "fs/launch"}, nil, "one configuration, read in one place"},
	{"github.com/spf13/...", []string{"cmd/neurodeskfs"}, nil, "only the command line has flags"},
	{"github.com/rogpeppe/...", []string{"integration"}, nil, "transcripts are integration tests"},
	{ours + "/cvmfs/cvmfstest", []string{"integration/..."}, nil, "a server for tests has no place in the product"},
	{ours + "/cmd/...", []string{"cmd/...", "integration/..."}, nil, "the command line wires the rest together; nobody depends on it"},
	{ours + "/fs/...", []string{"cmd/...", "fs/...", "integration/..."}, nil, "cmd -> fs -> cvmfs -> cache"},
	{ours + "/cvmfs/...", []string{"cmd/...", "fs/...", "cvmfs/...", "integration/..."}, []string{"fs", "fs/session", "fs/volume", "fs/launch"}, "fs serves volumes of any kind; only tree and image know CVMFS"},
	{ours + "/fs/session", []string{"cmd/...", "integration/..."}, nil, "the device loop knows nothing of what is served, nor the served of it"},
	{ours + "/fs/tree", []string{"cmd/...", "integration/..."}, nil, "the tree is a volume like the others"},
	{ours + "/integration/...", []string{"integration/..."}, nil, "tests are nobody's dependency"},
}

// below reports whether path is pattern, or lies below one that ends in /...
func below(path, pattern string) bool {
	prefix, all := strings.CutSuffix(pattern, "/...")
	return path == prefix || all && strings.HasPrefix(path, prefix+"/")
}

func anyBelow(path string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return below(path, p) })
}

func TestImportRules(t *testing.T) {
	for _, p := range golist(t, "./...") {
		for _, imported := range p.Imports {
			for _, r := range rules {
				if !below(imported, r.what) {
					continue
				}
				if r.only != nil && !anyBelow(p.path(), r.only) || anyBelow(p.path(), r.never) {
					t.Errorf("%s imports %s: %s", p.ImportPath, imported, r.reason)
				}
			}
		}
		checkClosed(t, p)
	}
}

// checkClosed holds the packages that may import hardly anything.
func checkClosed(t *testing.T, p listed) {
	t.Helper()
	for _, imported := range p.Imports {
		own := below(imported, ours+"/...")
		standard := !strings.Contains(strings.SplitN(imported, "/", 2)[0], ".")
		switch p.path() {
		case "cache":
			if own {
				t.Errorf("cache imports %s: keys are opaque to the cache, it knows nothing of cvmfs", imported)
			}
		case "fs/launch", "cmd/launcher":
			if !standard && imported != ours+"/fs/launch" && imported != "github.com/BurntSushi/toml" {
				t.Errorf("%s imports %s: the launcher starts a million times a day; the standard library only", p.path(), imported)
			}
		case "fs/session", "fs/volume", "cvmfs/hash", "cvmfs/inflate":
			if own {
				t.Errorf("%s imports %s: it stands at the bottom and knows nothing of the rest", p.path(), imported)
			}
		}
	}
}

// TestTheRulesBite shows that a rule with a wrong pattern would be noticed.
func TestTheRulesBite(t *testing.T) {
	var imports []string
	for _, p := range golist(t, "-deps", "-test", "./...") {
		imports = append(imports, p.ImportPath)
	}
	for _, r := range rules {
		if !slices.ContainsFunc(imports, func(i string) bool { return below(i, r.what) }) {
			t.Errorf("the rule on %s applies to nothing", r.what)
		}
	}
}

func TestEachPackageHasOneComment(t *testing.T) {
	for _, p := range golist(t, "./...") {
		names := p.GoFiles
		if len(names) == 0 {
			names = slices.Concat(p.TestGoFiles, p.XTestGoFiles)
		}
		var with []string
		for _, name := range names {
			if f := parse(t, p, name, parser.PackageClauseOnly|parser.ParseComments); f.Doc != nil {
				with = append(with, name)
			}
		}
		if len(with) != 1 {
			t.Errorf("%s has %d package comments (%q), not one", p.ImportPath, len(with), with)
		}
	}
}

func parse(t *testing.T, p listed, name string, mode parser.Mode) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, mode)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// vague names say nothing of what is there.
var vague = []string{"util", "utils", "common", "helper", "helpers", "manager", "base", "types"}

// lastWord is the last part of a camel-case or dashed name, in lower case.
var lastWord = regexp.MustCompile(`([A-Z]?[a-z0-9]+|[A-Z]+)$`)

func isVague(name string) bool {
	return slices.Contains(vague, strings.ToLower(name)) || slices.Contains(vague[:6], strings.ToLower(lastWord.FindString(name)))
}

func TestNamesSaySomething(t *testing.T) {
	for name, want := range map[string]bool{"types": true, "CacheManager": true, "fetch_util": true, "dataBase": false, "volume": false, "Table": false} {
		if isVague(name) != want {
			t.Errorf("isVague(%q) = %v", name, !want)
		}
	}
	for _, p := range golist(t, "./...") {
		if isVague(p.Name) {
			t.Errorf("package %s: the name says nothing of what it does", p.ImportPath)
		}
		for _, name := range p.files() {
			if isVague(strings.TrimSuffix(strings.TrimSuffix(name, ".go"), "_test")) {
				t.Errorf("%s/%s: the name says nothing of what is in it", p.path(), name)
			}
			ast.Inspect(parse(t, p, name, parser.SkipObjectResolution), func(n ast.Node) bool {
				if s, ok := n.(*ast.TypeSpec); ok && isVague(s.Name.Name) {
					t.Errorf("%s/%s: type %s: the name says nothing of what it is", p.path(), name, s.Name.Name)
				}
				return true
			})
		}
	}
}

// The budget of style.md.
const (
	maxFileLines = 400
	maxFuncLines = 60
	maxMethods   = 3
)

func TestSizesAreInTheBudget(t *testing.T) {
	for _, p := range golist(t, "./...") {
		for _, name := range p.files() {
			checkSizes(t, p, name)
		}
	}
}

func checkSizes(t *testing.T, p listed, name string) {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	if n := fset.File(f.FileStart).LineCount(); n > maxFileLines {
		t.Errorf("%s/%s has %d lines; at most %d can be read at once", p.path(), name, n, maxFileLines)
	}
	if strings.HasSuffix(name, "_test.go") {
		return
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if lines := fset.Position(n.End()).Line - fset.Position(n.Pos()).Line + 1; lines > maxFuncLines {
				t.Errorf("%s/%s: %s has %d lines, more than %d", p.path(), name, n.Name.Name, lines, maxFuncLines)
			}
		case *ast.InterfaceType:
			if countMethods(n) > maxMethods {
				t.Errorf("%s: an interface of more than %d methods", fset.Position(n.Pos()), maxMethods)
			}
		}
		return true
	})
}

func countMethods(i *ast.InterfaceType) int {
	n := 0
	for _, m := range i.Methods.List {
		n += len(m.Names) // an embedded one has none
	}
	return n
}

// TestDirectDependencies bounds what we build on and wants a reason for each.
func TestDirectDependencies(t *testing.T) {
	module := map[string]string{}
	var own []listed
	for _, p := range golist(t, "-deps", "-test", "./...") {
		if p.Module == nil {
			continue
		}
		module[p.ImportPath] = p.Module.Path
		if p.Module.Path == ours {
			own = append(own, p)
		}
	}
	direct := map[string]bool{}
	for _, p := range own {
		for _, i := range p.allImports() {
			if m := module[i]; m != "" && m != ours {
				direct[m] = true
			}
		}
	}
	names := slices.Sorted(maps.Keys(direct))
	if len(names) < 5 || len(names) > 15 {
		t.Errorf("%d direct dependencies, more than 15 (or the test is blind): %q", len(names), names)
	}
	readme, err := os.ReadFile(filepath.Join(sourceRoot(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !bytes.Contains(readme, []byte(name)) {
			t.Errorf("README.md does not say why %s is needed", name)
		}
	}
}
