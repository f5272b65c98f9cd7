package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// overlap is how long the server waits before each answer, so that what is asked
// at once is under way together, and what is not follows: long enough that a busy
// machine's own pauses make few rounds more.
const overlap = 300 * time.Millisecond

// coldStart runs a tool once in a mount whose cache has only the command index,
// and counts how many requests waited for each other.
func coldStart(t *testing.T, s *stratum, m *mounted, args ...string) (rounds int) {
	t.Helper()
	m.Indexed()
	defer s.Inject(cvmfstest.All, 0, cvmfstest.Delay(overlap)).Remove()
	s.Reset()
	r := m.Run(args[0], args[1:]...)
	if r.Status != 0 {
		t.Fatalf("%v: exit status %d: %s", args, r.Status, r.Stderr)
	}
	log := s.Requests()
	rounds = cvmfstest.Rounds(log) // there are no more waves than rounds
	t.Logf("%v: %v, %d requests of %d bytes in %d waves, %d rounds", args, r.Took, len(log), s.Stats().Bytes, cvmfstest.Waves(log), rounds)
	return rounds
}

// TestLaunchCold runs tools of the golden repositories that have never run, takes
// their traces to a new node, and runs them there: of unpacked images, and of a
// single-file image, whose head and tables come at once.
func TestLaunchCold(t *testing.T) {
	needApptainer(t)
	s := newStratum(t)
	for _, c := range []struct {
		fqrn, layout, tool string // path in the mount
		args               []string
		first, traced      int // rounds at most
	}{
		{"neurodesk.golden.test", "neurodesk", "bin/pytool", nil, 40, 6},
		{"neurodesk.golden.test", "neurodesk", "bin/mrinfo", []string{"--version"}, 15, 5},
		{"galaxy.golden.test", "flat", "apps/mrtrix3/default/bin/mrinfo", []string{"--version"}, 6, 3},
	} {
		t.Run(c.tool, func(t *testing.T) {
			src := s.Golden(c.fqrn)
			src.Layout = c.layout
			file := filepath.Join(shortDir(t), "traces.json")
			for _, most := range []int{c.first, c.traced} {
				// A busy machine may let a request wait for the processor until others have
				// ended; it does not do so three times.
				for try := 1; ; try++ {
					m := mount(t, setup{Sources: []source{src}})
					if most == c.traced {
						carry(t, m, "import", file)
					}
					n := coldStart(t, s, m, append([]string{m.Path(c.tool)}, c.args...)...)
					carry(t, m, "export", file)
					m.Unmount()
					if n <= most {
						break
					}
					if try == 3 {
						t.Fatalf("%d rounds, want at most %d", n, most)
					}
				}
			}
		})
	}
}

// carry exports the traces of a mount to a file, or imports them.
func carry(t *testing.T, m *mounted, verb, file string) {
	t.Helper()
	if r := neurodeskfs(t, "trace", verb, "--mount", m.Dir, file); r.Status != 0 {
		t.Fatalf("trace %s: exit status %d: %s", verb, r.Status, r.Stderr)
	}
}

// TestLaunchManyCold starts a tool that has never run 64 times at once.
func TestLaunchManyCold(t *testing.T) {
	serverProgram(t, "bwrap")
	s := newStratum(t)
	src := s.Golden("neurodesk.golden.test")
	src.Layout = "neurodesk"
	m := mount(t, setup{Sources: []source{src}})
	m.Indexed()
	s.Reset()
	const starts = 64
	var ended sync.WaitGroup
	for range starts {
		c := m.Command("mrinfo", "--version")
		c.Env = append(c.Env, "NEURODESK_RUNTIME=bwrap")
		ended.Go(func() {
			r, err := runCommand(c)
			if err != nil || r.Status != 0 || !strings.Contains(r.Stdout, "mrinfo") {
				t.Errorf("exit status %d, %v, %q: %s", r.Status, err, r.Stdout, r.Stderr)
			}
		})
	}
	ended.Wait()
	log := s.Requests()
	times := map[string]int{}
	for _, r := range log {
		times[r.Path]++
	}
	for path, n := range times {
		if n > 1 {
			t.Errorf("%s was fetched %d times", path, n)
		}
	}
	if len(log) < 20 { // 31 by the reference client
		t.Errorf("no more than %d requests: nothing was cold", len(log))
	}
}

// TestMountIndexRounds looks up names in M/bin of a repository as large as
// Neurodesk's with an empty cache, then with the index in the cache.
func TestMountIndexRounds(t *testing.T) {
	const images = 384
	tree := cvmfstest.NewTree()
	for i := range images {
		name := fmt.Sprintf("app%03dx_1.2.3_20240515", i)
		dir := "containers/" + name
		tree.Nested(dir)
		tree.Nested(dir + "/" + name + ".simg")
		tree.File(dir+"/commands.txt", fmt.Appendf(nil, "app%03dx\ntool%03d\n", i, i), 0o644)
		tree.File(dir+"/"+name+".simg/etc/name", []byte(name), 0o644)
	}
	s := newStratum(t)
	_, _, src := s.publish(cvmfstest.Options{FQRN: countedFQRN, TTL: time.Hour}, tree)
	src.Layout = "neurodesk"
	s.Inject(cvmfstest.All, 0, cvmfstest.Delay(overlap))
	cached := ""
	for _, c := range []struct {
		name, command string
		most          int // rounds; at 100 ms the aims are 1.5 s and 6 s
	}{{"the app's own name", "app200x", 15}, {"another name", "tool301", 60}, {"with the index in the cache", "tool302", 0}} {
		set := setup{Sources: []source{src}}
		if c.most == 0 {
			set.Cache = cached
		}
		m := mount(t, set)
		s.Reset()
		if _, err := os.Stat(m.Path("bin", c.command)); err != nil {
			t.Error(err)
		}
		log := s.Requests() // what comes later nobody waited for
		rounds := cvmfstest.Rounds(log)
		t.Logf("%s: %d requests in %d rounds", c.name, len(log), rounds)
		if rounds > c.most {
			t.Errorf("%s: %d requests in %d rounds, want at most %d", c.name, len(log), rounds, c.most)
		}
		m.Indexed()
		cached = m.Cache
		m.Unmount()
	}
}
