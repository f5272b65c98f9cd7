package integration

import (
	"io"
	"os"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// TestMountASourceComesBack: a source whose servers are down when another one is
// mounted is shown when they are well again, by reload at once and by itself a
// little later, and whoever uses the other one notices nothing.
func TestMountASourceComesBack(t *testing.T) {
	for _, asked := range []bool{true, false} {
		late := newStratum(t)
		tree := cvmfstest.NewTree()
		tree.File("file", []byte("late"), 0o644)
		_, _, src := late.publish(cvmfstest.Options{FQRN: "late.example.org"}, tree)
		_, _, other := late.publish(cvmfstest.Options{FQRN: "other.example.org"}, tree)
		down := late.Inject(cvmfstest.All, 0, cvmfstest.Drop(0))
		m := mount(t, setup{Sources: []source{newStratum(t).Golden(alpha), src, other}})
		file := m.Raw(src.FQRN, "file")
		if _, err := os.Stat(file); !os.IsNotExist(err) {
			t.Errorf("before: %v", err)
		}
		held, err := os.Open(m.Raw(alpha, "README.txt"))
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
		if asked {
			wantRun(t, 1, "reload", m.Dir)
		}
		down.Remove()
		if asked {
			wantRun(t, 0, "reload", m.Dir)
		}
		var text []byte
		if !poll(time.Minute, func() bool {
			text, err = os.ReadFile(file)
			return err == nil || asked
		}) || string(text) != "late" {
			t.Errorf("asked %v: %q, %v", asked, text, err)
		}
		if text, err := io.ReadAll(held); err != nil || len(text) == 0 {
			t.Errorf("a file of the other source: %d bytes, %v", len(text), err)
		}
		if st := m.Status(); st.Sources[1].Error != "" || st.Sources[1].Revision == 0 || st.Sources[2].Error != "" || st.Worker.Restarts != 1 {
			t.Errorf("%+v, worker %+v", st.Sources, st.Worker)
		}
		wantRun(t, 0, "reload", m.Dir)
	}
}
