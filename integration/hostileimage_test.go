package integration

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// hostileImages are root trees with something wrong below .singularity.d, or in
// what it leads to, by app: files by path, links as "-> TARGET". HERE is a
// directory of the test's.
var hostileImages = map[string]map[string]string{
	"subst": {
		".singularity.d/env/90-x.sh": "export PATH=$(touch HERE/HACKED):/opt/bin\nexport DEPLOY_BINS=`touch HERE/HACKED`:inner\ntouch HERE/HACKED\n",
		".singularity.d/runscript":   "#!/bin/sh\ntouch HERE/HACKED\n",
		".singularity.d/labels.json": "{\"\x1b]0;HACKED\x07\": \"$(touch HERE/HACKED)\"}",
		"usr/local/bin/subst-tool":   "#!/bin/sh\n",
	},
	"leads": { // out of the image, and to a folder of the host
		".singularity.d/env/90-x.sh": "DEPLOY_PATH=/../../../../../../../../usr/bin:/out:/up/usr/bin\n",
		"out":                        "-> /usr/bin",
		"up":                         "-> ../../../../../../../..",
		".singularity.d/runscript":   "-> /bin/sh",
	},
	"cyclic": {
		".singularity.d/env":       "-> ../.singularity.d/env",
		".singularity.d/runscript": "-> runscript",
		"usr/local/bin/a":          "-> b",
		"usr/local/bin/b":          "-> a",
		"usr/local/bin/self":       "-> self/self/self",
		"usr/local/bin/dir":        "-> ..",
	},
	"newline": {
		".singularity.d/env/90-\n;touch HACKED.sh": "DEPLOY_BINS='a\nb':$'c'\n",
		"usr/local/bin/evil\nname":                 "#!/bin/sh\n",
		"usr/local/bin/\x1b[2Jx":                   "#!/bin/sh\n",
		"usr/local/bin/-rf":                        "#!/bin/sh\n",
		"usr/local/bin/`touch HACKED`":             "#!/bin/sh\n",
		"usr/local/bin/newline-tool":               "#!/bin/sh\n",
	},
	"good": {"usr/local/bin/good-tool": "#!/bin/sh\n", "bin/sh": "#!/bin/sh\n"},
}

// TestMountHostileImages: images whose .singularity.d tries to run something, to
// lead out, to lead in circles, to fill the memory or to hang whoever looks. They
// are looked through without harm, and what lies beside them is right.
func TestMountHostileImages(t *testing.T) {
	here := shortDir(t)
	dir := shortDir(t)
	tree := cvmfstest.NewTree()
	for app, files := range hostileImages {
		for at, text := range files {
			text = strings.ReplaceAll(text, "HERE", here)
			place, repo := filepath.Join(dir, app+"_1.0", at), ".flat/"+app+"/"+at
			if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
				t.Fatal(err)
			}
			if target, ok := strings.CutPrefix(text, "-> "); ok {
				tree.Symlink(repo, target)
				if err := os.Symlink(target, place); err != nil {
					t.Fatal(err)
				}
				continue
			}
			tree.File(repo, []byte(text), 0o755)
			if err := os.WriteFile(place, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		tree.Symlink("registry/hostile/"+app+":1.0", "../../.flat/"+app)
	}
	sparse(t, filepath.Join(dir, "large_1.0/.singularity.d/env/90-x.sh"), 100<<20)
	sparse(t, filepath.Join(dir, "large_1.0/.singularity.d/runscript"), 1<<30)
	for _, name := range []string{"env/90-x.sh", "runscript"} { // whoever opens a fifo may wait for ever
		at := filepath.Join(dir, "fifo_1.0/.singularity.d", name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mkfifo(at, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	_, _, unpacked := newStratum(t).publish(cvmfstest.Options{FQRN: hostileFQRN}, tree)
	unpacked.Layout = "unpacked"
	for name, c := range map[string]struct {
		src  source
		apps string
	}{
		"folder":   {source{Kind: "dir", Path: dir}, "cyclic fifo good large leads newline subst"},
		"unpacked": {unpacked, "cyclic good leads newline subst"},
	} {
		t.Run(name, func(t *testing.T) {
			m := mount(t, setup{Sources: []source{c.src}})
			m.Indexed()
			if got := names(t, m.Path("apps")); got != c.apps {
				t.Errorf("apps: %q, want %q", got, c.apps)
			}
			tellAll(t, m)
			worker := m.Status().Worker.PID
			if rss := residentBytes(t, worker); rss > 150<<20 {
				t.Errorf("the daemon has %d MiB", rss>>20)
			}
			if left, err := os.ReadDir(here); err != nil || len(left) > 0 {
				t.Errorf("something was obeyed: %v, %v", left, err)
			}
			if st := m.Status(); st.Worker.Restarts != 0 || st.IOErrors != 0 {
				t.Errorf("%+v, %d I/O errors", st.Worker, st.IOErrors)
			}
		})
	}
}

// tellAll has every command of ours tell about the images.
func tellAll(t *testing.T, m *mounted) {
	t.Helper()
	for _, app := range strings.Fields(names(t, m.Path("apps"))) {
		list := names(t, m.Path("apps", app, "1.0", "bin"))
		if strings.ContainsFunc(list, func(r rune) bool { return !unicode.IsPrint(r) || strings.ContainsRune("`$;\\", r) }) || slices.Contains(strings.Fields(list), "ls") {
			t.Errorf("%s exposes %q", app, list)
		}
		if plain := slices.Contains([]string{"good", "newline", "subst"}, app); plain != slices.Contains(strings.Fields(list), app+"-tool") {
			t.Errorf("%s exposes %q", app, list)
		}
		for _, args := range [][]string{{"info", app}, {"env", app}, {"check", app}, {"search", app}, {"list"}, {"which", "--all", app}} {
			c := m.Command(program(t), args...)
			c.Dir = shortDir(t)
			r := run(t, c)
			if i := strings.IndexFunc(r.Stdout+r.Stderr, func(r rune) bool { return r != '\n' && r != '\t' && unicode.IsControl(r) }); i >= 0 {
				t.Errorf("%q: control character at %d: %q", args, i, r.Stdout+r.Stderr)
			}
			if r.Status != 0 && args[0] == "info" {
				t.Errorf("%q: %+v", args, r)
			}
			if left, _ := os.ReadDir(c.Dir); len(left) > 0 {
				t.Errorf("%q: something was obeyed: %v", args, left)
			}
		}
	}
}

// sparse makes a file of zeros that takes no room.
func sparse(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

// TestLaunchHostileImages: a runscript of zeros and an endless environment end
// the start with a status, whatever the runtime.
func TestLaunchHostileImages(t *testing.T) {
	dir := shortDir(t)
	sparse(t, filepath.Join(dir, "large_1.0/.singularity.d/env/90-x.sh"), 100<<20)
	sparse(t, filepath.Join(dir, "large_1.0/.singularity.d/runscript"), 1<<30)
	m := mount(t, setup{Sources: []source{{Kind: "dir", Path: dir}}})
	m.Indexed()
	for _, runtime := range runtimesPresent(t) {
		c := m.Command("large")
		c.Env = append(c.Env, "NEURODESK_RUNTIME="+runtime)
		if r := run(t, c); r.Status <= 0 || r.Stdout != "" {
			t.Errorf("%s: %+v", runtime, r)
		}
	}
	if st := m.Status(); st.IOErrors != 0 || st.Worker.Restarts != 0 {
		t.Errorf("%+v", st)
	}
}

// TestMountBindCycles: bind mountpoints that show their own parent. A catalog
// cannot hold its own hash, so that each shows an earlier one, and all ends; two
// in each of forty revisions are a trillion directories, of which those exist
// that are asked for.
func TestMountBindCycles(t *testing.T) {
	tree := cvmfstest.NewTree()
	tree.File("file", []byte("1\n"), 0o644)
	s := newStratum(t)
	repo, rev, src := s.publish(cvmfstest.Options{FQRN: hostileFQRN}, tree)
	const revisions = 40
	for n := 2; n <= revisions; n++ {
		tree.File("file", fmt.Appendf(nil, "%d\n", n), 0o644)
		tree.Bind("up", rev)
		tree.Bind("again", rev)
		var err error
		if rev, err = repo.Publish(t.Context(), tree); err != nil {
			t.Fatal(err)
		}
	}
	for _, layout := range []string{"none", "unpacked"} {
		src.Layout = layout
		m := mount(t, setup{Sources: []source{src}})
		at := m.Raw(hostileFQRN)
		for n := revisions; n >= 1; n-- {
			if b, err := os.ReadFile(filepath.Join(at, "file")); err != nil || string(b) != fmt.Sprintf("%d\n", n) {
				t.Fatalf("%s: %q, %v", at, b, err)
			}
			at = filepath.Join(at, []string{"up", "again"}[n%2])
		}
		if _, err := os.Stat(at); !os.IsNotExist(err) {
			t.Errorf("below the first revision: %v", err)
		}
		if rss := residentBytes(t, m.Status().Worker.PID); rss > 150<<20 {
			t.Errorf("the daemon has %d MiB", rss>>20)
		}
		m.Unmount()
	}
}

// TestMountStaleProxy: a proxy that gives what was right once can delay a
// revision, and can neither mix two nor take one back.
func TestMountStaleProxy(t *testing.T) {
	tree := cvmfstest.NewTree()
	tree.File("file", []byte("old\n"), 0o644)
	server, proxy := newStratum(t), newStratum(t)
	repo, old, src := server.publish(cvmfstest.Options{FQRN: hostileFQRN}, tree)
	proxy.Add(hostileFQRN, repo.Store)
	src.Proxies = "http://" + proxy.Addr() + ";DIRECT"
	setup := setup{Sources: []source{src}, Cache: filepath.Join(shortDir(t), "c")}
	m := mount(t, setup)
	shows := func(what string, revision uint64, text string) {
		t.Helper()
		wantRun(t, 0, "reload", m.Dir)
		b, err := os.ReadFile(m.Raw(hostileFQRN, "file"))
		if st := m.Status().Sources[0]; err != nil || string(b) != text || st.Revision != revision {
			t.Errorf("%s: revision %d, %q, %v; want %d, %q", what, st.Revision, b, err, revision, text)
		}
	}
	shows("at first", 1, "old\n")
	tree.File("file", []byte("new\n"), 0o644)
	rev, err := repo.Publish(t.Context(), tree)
	if err != nil {
		t.Fatal(err)
	}
	late := proxy.Inject(cvmfstest.Path(".cvmfspublished"), 0, cvmfstest.Replace(old.Manifest))
	shows("a stale manifest", 1, "old\n")
	late.Remove()
	for _, what := range []string{"", "file"} { // an old object under the new one's name
		f, err := repo.Store.Open(old.Objects(what)[0])
		if err != nil {
			t.Fatal(err)
		}
		stale, err := io.ReadAll(f)
		f.Close()
		if err != nil || bytes.Equal(stale, nil) {
			t.Fatal(err)
		}
		proxy.Inject(cvmfstest.Path(rev.Objects(what)[0]), 0, cvmfstest.Replace(stale))
	}
	shows("stale objects", 2, "new\n")
	if st := m.Status().Sources[0]; st.VerifyFailures == 0 {
		t.Errorf("nothing was refused: %+v", st)
	}
	late = proxy.Inject(cvmfstest.Path(".cvmfspublished"), 0, cvmfstest.Replace(old.Manifest))
	m.Unmount()
	m = mount(t, setup) // else the proxy is left alone for a while
	shows("the stale manifest again", 2, "new\n")
	if late.Hits() == 0 {
		t.Error("the proxy was not asked")
	}
}
