package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

const hostileFQRN = "hostile.example.org"

// replaced puts new in place of old, of the same length, in a database.
func replaced(t *testing.T, b []byte, old, new string) []byte {
	t.Helper()
	if len(old) != len(new) || !bytes.Contains(b, []byte(old)) {
		t.Errorf("%q is not in the catalog, or %q has another length", old, new)
	}
	return bytes.ReplaceAll(b, []byte(old), []byte(new))
}

// TestMountHostileCatalogs: catalogs that are signed as they should be, and say
// what cannot be. The directory that has such an entry fails with EIO or goes
// without it, everything beside it is right, and the daemon goes on, small.
func TestMountHostileCatalogs(t *testing.T) {
	good := []byte("good\n")
	const bomb = 64 << 20
	packed := cvmfstest.NewStore()
	big, _, err := packed.Put(make([]byte, bomb), cvmfstest.Format{Algorithm: hash.SHA1})
	if err != nil {
		t.Fatal(err)
	}
	size := func(path string, n int64) func(*catalog.Entry) {
		return func(e *catalog.Entry) {
			if e.Path == path {
				e.Size = n
			}
		}
	}
	for name, c := range map[string]struct {
		plant func(tree *cvmfstest.Tree)
		alter func(e *catalog.Entry)
		forge func(b []byte) []byte
		drop  string // a nested catalog that is not there
		check func(t *testing.T, dir string)
	}{
		"dot-dot":     {forge: func(b []byte) []byte { return replaced(t, b, "QQ", "..") }},
		"slash":       {forge: func(b []byte) []byte { return replaced(t, b, "QQ", "/x") }},
		"zero byte":   {forge: func(b []byte) []byte { return replaced(t, b, "QQ", "\x00Q") }},
		"dangling":    {drop: "bad/sub", plant: func(tree *cvmfstest.Tree) { tree.Nested("bad/sub") }, check: failsToList("sub")},
		"not nested":  {plant: func(tree *cvmfstest.Tree) { tree.Nested("bad/sub") }, forge: func(b []byte) []byte { return replaced(t, b, "/bad/sub", "/bad/SUB") }, check: failsToList("sub")},
		"huge file":   {alter: size("/bad/file", 1<<62), check: failsToRead("file")},
		"too short":   {alter: size("/bad/file", 2), check: failsToRead("file")},
		"zip bomb":    {alter: func(e *catalog.Entry) { bombed(e, big, 1000) }, check: failsToRead("file")},
		"2^31 pages":  {forge: func(b []byte) []byte { copy(b[28:], []byte{0x7f, 0xff, 0xff, 0xff}); return b }, check: failsToList("")},
		"no database": {forge: func(b []byte) []byte { return bytes.Repeat([]byte("SQLite format 3\x00"), 4096) }, check: failsToList("")},
		"link out":    {plant: func(tree *cvmfstest.Tree) { tree.Symlink("bad/out", "../../../../../../../etc/passwd") }, check: leadsOut},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := cvmfstest.NewTree()
			tree.File("good", good, 0o644)
			tree.File("bad/file", good, 0o644)
			tree.File("bad/QQ", good, 0o644)
			tree.Nested("bad")
			if c.plant != nil {
				c.plant(tree)
			}
			o := cvmfstest.Options{FQRN: hostileFQRN, Alter: c.alter}
			if c.forge != nil {
				o.Forge = func(path string, b []byte) []byte {
					if path != "/bad" {
						return b
					}
					return c.forge(b)
				}
			}
			s := newStratum(t)
			repo, rev, src := s.publish(o, tree)
			if c.drop != "" {
				if err := repo.Store.Remove(rev.Objects(c.drop)[0]); err != nil {
					t.Fatal(err)
				}
			}
			s.Add(hostileFQRN, cvmfstest.Overlay(repo.Store, packed))
			m := mount(t, setup{Sources: []source{src}})
			if c.check == nil {
				c.check = hasNoSuchName
			}
			c.check(t, m.Raw(hostileFQRN, "bad"))
			if b, err := os.ReadFile(m.Raw(hostileFQRN, "good")); err != nil || !bytes.Equal(b, good) {
				t.Errorf("what lies beside: %q, %v", b, err)
			}
			if rss := residentBytes(t, m.Status().Worker.PID); rss > 150<<20 {
				t.Errorf("the daemon has %d MiB", rss>>20)
			}
		})
	}
}

// bombed makes the file's content an object that inflates to far more than the row says.
func bombed(e *catalog.Entry, object hash.Hash, size int64) {
	if e.Path == "/bad/file" {
		e.Hash, e.Size = object, size
	}
}

func failsToRead(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		f, err := os.Open(filepath.Join(dir, name))
		if err == nil {
			defer f.Close()
			var n int
			if n, err = f.Read(make([]byte, 4096)); n > 0 {
				t.Errorf("%d bytes were served", n)
			}
		}
		if !errors.Is(err, unix.EIO) {
			t.Errorf("want EIO, not %v", err)
		}
	}
}

func failsToList(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if list, err := os.ReadDir(filepath.Join(dir, name)); !errors.Is(err, unix.EIO) {
			t.Errorf("listed %v, %v", list, err)
		}
	}
}

// hasNoSuchName wants no name in the listing that leads elsewhere, and none by
// the name that was there before.
func hasNoSuchName(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil && !errors.Is(err, unix.EIO) && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	for _, n := range names {
		if n != "file" && n != ".cvmfscatalog" {
			t.Errorf("listed %q", n)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "QQ")); err == nil {
		t.Error("the forged row is found")
	}
	if here, err := os.Stat(filepath.Join(dir, "..", "bad")); err != nil || !here.IsDir() {
		t.Error(err)
	}
}

// leadsOut: a link is a link; the daemon follows none, and shows its text.
func leadsOut(t *testing.T, dir string) {
	t.Helper()
	if target, err := os.Readlink(filepath.Join(dir, "out")); err != nil || !strings.HasSuffix(target, "/etc/passwd") {
		t.Errorf("%q, %v", target, err)
	}
}

// residentBytes is the memory of a process.
func residentBytes(t *testing.T, pid int) int64 {
	t.Helper()
	n, err := residentOf(pid)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// residentOf is for processes that may end meanwhile.
func residentOf(pid int) (bytes int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err == nil {
		var size int64
		_, err = fmt.Sscan(string(b), &size, &bytes)
	}
	return bytes * int64(os.Getpagesize()), err
}

// TestMountMixedRevisions: a server that has the signed manifest of the newest
// revision and gives older or other sound objects under the names of new ones is
// not believed, and a good server behind it is.
func TestMountMixedRevisions(t *testing.T) {
	tree := cvmfstest.NewTree()
	tree.File("file", []byte("old\n"), 0o644)
	bad, well := newStratum(t), newStratum(t)
	repo, old, src := bad.publish(cvmfstest.Options{FQRN: hostileFQRN}, tree)
	tree.File("file", []byte("new\n"), 0o644)
	rev, err := repo.Publish(t.Context(), tree)
	if err != nil {
		t.Fatal(err)
	}
	well.Add(hostileFQRN, repo.Store)
	for _, what := range []string{"", "file"} {
		f, err := repo.Store.Open(old.Objects(what)[0])
		if err != nil {
			t.Fatal(err)
		}
		stale, err := io.ReadAll(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		rule := bad.Inject(cvmfstest.Path(rev.Objects(what)[0]), 0, cvmfstest.Replace(stale))
		if what == "" { // the bad one alone
			if r := refused(t, setup{Sources: []source{src}}); r.Status != 4 {
				t.Errorf("exit status %d, %s", r.Status, r.Stderr)
			}
		}
		both := src
		both.Servers = []string{bad.URL(), well.URL()}
		m := mount(t, setup{Sources: []source{both}})
		if b, err := os.ReadFile(m.Raw(hostileFQRN, "file")); err != nil || string(b) != "new\n" {
			t.Errorf("%q, %v", b, err)
		}
		if st := m.Status().Sources[0]; st.Revision != 2 || st.VerifyFailures == 0 {
			t.Errorf("%+v", st)
		}
		rule.Remove()
	}
}

// shellTraps are names that a careless script, module or terminal would act on.
var shellTraps = []string{
	"$(touch HACKED)", "`touch HACKED`", "a;touch HACKED", "a|touch HACKED", "a\x1b]0;HACKED\x07", "\x1b[2J", "a\u202eb", "../../../escape", "-rf",
	"a b", "a'b", `a"b`, "a]]b", "[exec touch HACKED]", "a\\b", "a{b}", "café", "a\xffb", "x\r", strings.Repeat("n", 300),
}

// TestMountHostileNames: command names, app names and READMEs that try to break a
// shell, a module or a terminal. Nothing of them is acted on, and no command of
// ours writes a control character.
func TestMountHostileNames(t *testing.T) {
	tree := cvmfstest.NewTree()
	plant := func(dir, commands string) {
		tree.File(dir+"/commands.txt", []byte(commands), 0o644)
		tree.File(dir+"/README.md", []byte("# \x1b]0;HACKED\x07title\n\x1b[2J\u202etext\r\n---END---]]]]==]\n"), 0o644)
		tree.File(dir+"/env.txt", []byte("DEPLOY_ENV_X=BASEPATH/$(touch HACKED)`touch HACKED`\x1b[2J\nDEPLOY_ENV_A;touch HACKED=1\nDEPLOY_ENV_LD_PRELOAD=BASEPATH/x.so\nDEPLOY_ENV_GOOD=$(touch HACKED)\n"), 0o644)
		tree.File(dir+"/"+filepath.Base(dir)+".simg/bin/tool", nil, 0o755)
	}
	plant("containers/tool_1.0_20240101", "tool\n"+strings.Join(shellTraps, "\n")+"\n")
	for i, name := range []string{"$(touch HACKED)", "a\x1b[2J", "b;c", "[exec touch HACKED]", "q\"q", "c\u009b31m", "w\u202ex"} {
		plant(fmt.Sprintf("containers/%s_%d_20240101", name, i), "tool"+fmt.Sprint(i)+"\n")
	}
	s := newStratum(t)
	_, _, src := s.publish(cvmfstest.Options{FQRN: hostileFQRN}, tree)
	src.Layout = "neurodesk"
	m := mount(t, setup{Sources: []source{src}})
	m.Indexed()
	list, err := os.ReadDir(m.Path("bin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if strings.ContainsFunc(e.Name(), func(r rune) bool { return !unicode.IsPrint(r) || strings.ContainsRune(" $`;|'\"\\{}[]/", r) }) || e.Name()[0] == '-' {
			t.Errorf("M/bin has %q", e.Name())
		}
	}
	for _, args := range [][]string{
		{"list"}, {"search", "tool"}, {"info", "tool"}, {"which", "--all", "tool"}, {"env", "tool"}, {"status", m.Dir}, {"cache", "list"}, {"info", "tool", "--json"}, {"list", "--json"},
	} {
		c := m.Command(program(t), args...)
		if args[0] == "cache" {
			c.Args = append(c.Args, "--mount", m.Dir)
		}
		r := run(t, c)
		if i := strings.IndexFunc(r.Stdout+r.Stderr, func(r rune) bool { return r != '\n' && r != '\t' && unicode.IsControl(r) || r == 0x202e }); r.Status != 0 || i >= 0 {
			t.Errorf("%q: exit status %d, control character at %d: %q", args, r.Status, i, r.Stdout+r.Stderr)
		}
		if args[0] == "info" && len(args) == 2 && !strings.Contains(r.Stdout, `\x1b]0;HACKED\x07title`) {
			t.Errorf("info does not show the README's escapes: %q", r.Stdout)
		}
	}
	if r := m.Run(program(t), "info", "\x1b[2Jtool"); r.Status == 0 || !strings.Contains(r.Stderr, `\x1b[2Jtool`) {
		t.Errorf("an error is not escaped: %+v", r)
	}
	harmless(t, m)
}

// harmless loads what is made for shells and modules, and wants none of it obeyed.
func harmless(t *testing.T, m *mounted) {
	t.Helper()
	dir := shortDir(t)
	apps, err := os.ReadDir(m.Path("apps"))
	if err != nil || len(apps) < 2 {
		t.Fatalf("%v, %v", apps, err)
	}
	for _, a := range apps {
		env := m.Path("apps", a.Name(), "default", "env")
		c := m.Command("/bin/sh", "-c", `. "$1"`, "sh", env)
		c.Dir = dir
		if r := run(t, c); r.Status != 0 {
			t.Errorf("%q: exit status %d, %s", env, r.Status, r.Stderr)
		}
	}
	if _, err := os.Stat("/usr/share/lmod"); err == nil {
		c := m.Command("/bin/bash", "-c", ". /etc/profile.d/lmod.sh; module use "+m.Path("modules")+"; module --raw show tool; module load tool; module avail")
		c.Dir = dir
		run(t, c)
	}
	env := neurodeskfs(t, "env", "tool", "--mount", m.Dir)
	if strings.Contains(env.Stdout, "LD_PRELOAD") || !strings.Contains(env.Stdout, "export GOOD='$(touch HACKED)'") {
		t.Errorf("env says %s%s", env.Stdout, env.Stderr)
	}
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Errorf("something was obeyed: %v", entries)
	}
	if slices.ContainsFunc(apps, func(e os.DirEntry) bool { return strings.ContainsRune(e.Name(), '\x1b') }) {
		t.Error("an app's name has an escape sequence")
	}
}
