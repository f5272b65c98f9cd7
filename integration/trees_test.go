package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// goldenRevisions are all golden repositories with their revisions.
var goldenRevisions = []struct {
	fqrn      string
	revisions []int
}{
	{"alpha.golden.test", []int{1, 2, 3}},
	{"beta.golden.test", []int{1, 2, 3}},
	{"gamma.golden.test", []int{1, 2, 3}},
	{"delta.golden.test", []int{1}},
	{"neurodesk.golden.test", []int{1, 2}},
	{"galaxy.golden.test", []int{1}},
	{"unpacked.golden.test", []int{1, 2}},
}

// TestGoldenTrees compares each repository, at each revision pinned by its tag,
// with its list.
func TestGoldenTrees(t *testing.T) {
	for _, g := range goldenRevisions {
		for _, n := range g.revisions {
			t.Run(fmt.Sprintf("%s/rev%d", g.fqrn, n), func(t *testing.T) {
				t.Parallel()
				src := newStratum(t).Golden(g.fqrn)
				src.Tag = fmt.Sprintf("golden-rev%d", n)
				m := mount(t, setup{Sources: []source{src}})
				checkTree(t, m.Raw(g.fqrn), goldenListing(t, g.fqrn, n, nil))
				if s := m.Status(); s.IOErrors != 0 || s.Sources[0].HTTPErrors != 0 || s.Sources[0].VerifyFailures != 0 {
					t.Errorf("status %+v", s)
				}
			})
		}
	}
}

// TestGoldenTreeByOtherPins mounts one revision by each of the other ways.
func TestGoldenTreeByOtherPins(t *testing.T) {
	const fqrn, n = "gamma.golden.test", 2 // its tag says CVMFS revision 4
	want := goldenListing(t, fqrn, n, nil)
	var root string
	b, err := goldenRevision(t, fqrn, n).Open(".cvmfspublished")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := fmt.Fscanf(b, "C%s\n", &root); err != nil {
		t.Fatal(err)
	}
	for name, pin := range map[string]func(*source){
		"revision":  func(s *source) { s.Revision = 4 },
		"root_hash": func(s *source) { s.RootHash = root },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := newStratum(t).Golden(fqrn)
			pin(&src)
			m := mount(t, setup{Sources: []source{src}})
			checkTree(t, m.Raw(fqrn), want)
			// The tag's catalog is not the manifest's: publishing snapshots makes another.
			if s := m.Status().Sources[0]; src.RootHash != "" && s.RootHash != root {
				t.Errorf("root hash %s, want %s", s.RootHash, root)
			}
		})
	}
	t.Run("manifest of that time", func(t *testing.T) {
		t.Parallel()
		m := mount(t, setup{Sources: []source{newStratum(t).Golden(fqrn, goldenRevision(t, fqrn, n))}})
		checkTree(t, m.Raw(fqrn), want)
	})
}

// TestGoldenVariantLinks sets the variables that the links read: they come from
// the configuration of the reference client, else from the environment of the mount
// command.
func TestGoldenVariantLinks(t *testing.T) {
	const fqrn = "alpha.golden.test"
	env := map[string]string{"GOLDEN_VAR": "one/two", "GOLDEN_X": "ex", "GOLDEN_DIR": "deep", "GOLDEN_VER": "v9", "GOLDEN_EMPTY": "full"}
	s := setup{Sources: []source{newStratum(t).Golden(fqrn)}, Site: shortDir(t)}
	for k, v := range env {
		s.Env = append(s.Env, k+"="+strings.Replace(v, "one", "another", 1))
	}
	if err := os.WriteFile(filepath.Join(s.Site, "default.local"), []byte("GOLDEN_VAR=one/two\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m := mount(t, s)
	links := 0
	for p, want := range goldenListing(t, fqrn, 3, env) {
		if want.Type != "l" {
			continue
		}
		links++
		if got, err := readEntry(m.Raw(fqrn, p)); err != nil || got != want {
			t.Errorf("%s: %v\n\tgot  %+v\n\twant %+v", p, err, got, want)
		}
	}
	if links < 10 {
		t.Errorf("%d links only", links)
	}
}

// TestGoldenSnapshots looks at gamma's hidden directory in which each tag is
// shown by a bind mountpoint.
func TestGoldenSnapshots(t *testing.T) {
	const fqrn = "gamma.golden.test"
	m := mount(t, setup{Sources: []source{newStratum(t).Golden(fqrn)}})
	entries, err := os.ReadDir(m.Raw(fqrn))
	if err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == ".cvmfs" }) {
		t.Errorf("the root lists .cvmfs, or %v", err)
	}
	tags, err := os.ReadDir(m.Raw(fqrn, ".cvmfs/snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range tags {
		names = append(names, e.Name())
	}
	for n := 1; n <= 3; n++ {
		tag := fmt.Sprintf("golden-rev%d", n)
		if !slices.Contains(names, tag) {
			t.Errorf("no %s among %s", tag, strings.Join(names, " "))
			continue
		}
		checkTree(t, m.Raw(fqrn, ".cvmfs/snapshots", tag), goldenListing(t, fqrn, n, nil))
	}
}

// TestGoldenHardLinks tells links of one file by their inode number.
func TestGoldenHardLinks(t *testing.T) {
	const fqrn = "alpha.golden.test"
	src := newStratum(t).Golden(fqrn)
	src.Tag = "golden-rev1"
	m := mount(t, setup{Sources: []source{src}})
	byInode := map[uint64]int{}
	linked := 0
	for p, e := range goldenListing(t, fqrn, 1, nil) {
		if e.Type != "f" || e.Nlink == "1" {
			continue
		}
		var st unix.Stat_t
		if err := unix.Lstat(m.Raw(fqrn, p), &st); err != nil {
			t.Fatal(err)
		}
		byInode[st.Ino]++
		linked++
		if byInode[st.Ino] > int(st.Nlink) {
			t.Errorf("%s: inode %d has more names than its %d links", p, st.Ino, st.Nlink)
		}
	}
	if linked < 4 || len(byInode) >= linked {
		t.Errorf("%d names of linked files have %d inodes", linked, len(byInode))
	}
}
