package main

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/integration/checkout"
)

// newTestBench is a bench in the source tree; the test ends with nothing of it
// left. Without the built program there is none.
func newTestBench(t *testing.T) *bench {
	t.Helper()
	root, err := checkout.Dir()
	if err == nil {
		_, err = os.Stat(filepath.Join(root, "bin/neurodeskfs"))
	}
	if err == nil {
		_, err = os.Stat("/dev/fuse")
	}
	if err != nil && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	t.Setenv("QUICK", "1")
	b, err := newBench(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.cleanUp(); err != nil {
			t.Error(err)
		}
		if left := processes(b.marker()); len(left) > 0 {
			t.Errorf("left running: %v", left)
		}
		if _, err := os.Lstat(b.work); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("left: %s (%v)", b.work, err)
		}
	})
	return b
}

// TestHotPassAsksNothing runs the case whose figure is a count.
func TestHotPassAsksNothing(t *testing.T) {
	b := newTestBench(t)
	b.current = "requests"
	if err := benchRequests(t.Context(), b); err != nil {
		t.Fatal(err, b.daemonLog())
	}
	if w := b.report.Rows[0]; w.Ours != 0 || w.missed() {
		t.Errorf("a second pass asked %v times: %v", w.Ours, b.report.Skipped)
	}
}

// TestFailedCase: the cases after it run, and what it left goes.
func TestFailedCase(t *testing.T) {
	b := newTestBench(t)
	broken := errors.New("broken")
	ran := false
	err := b.runAll(t.Context(), []benchCase{
		{name: "first", run: func(ctx context.Context, b *bench) error {
			if _, _, err := b.hotSite(ctx); err != nil {
				t.Error(err)
			}
			return broken
		}},
		{name: "lacking", needs: []string{"no-such-program-anywhere"}, run: func(context.Context, *bench) error { panic("it ran") }},
		{name: "last", run: func(context.Context, *bench) error {
			mounts, err := b.mountPoints()
			if len(mounts) > 0 || err != nil || len(processes(b.marker())) > 0 {
				t.Errorf("left by the case before: %q, %v, %v", mounts, processes(b.marker()), err)
			}
			ran = true
			return nil
		}},
	})
	if err != nil || !ran || !strings.Contains(b.report.Failed["first"], "broken") || b.report.Skipped["lacking"] == "" {
		t.Errorf("%v, ran %v, failed %v, skipped %v", err, ran, b.report.Failed, b.report.Skipped)
	}
}

// TestWorker: what is measured is what is there.
func TestWorker(t *testing.T) {
	b := newTestBench(t)
	dir := filepath.Join(b.scratch, "local")
	if _, err := b.hotTree(dir, 1<<20); err != nil {
		t.Fatal(err)
	}
	for pass := range passes {
		path := map[string]string{"readdir": "folder", "sequential": "large", "random": "large"}[pass]
		if path == "" {
			path = "small"
		}
		if v, err := rate(pass, filepath.Join(dir, path), 1); v <= 0 || err != nil {
			t.Errorf("%s: %v, %v", pass, v, err)
		}
		if _, err := rate(pass, filepath.Join(dir, "no such place"), 1); err == nil {
			t.Errorf("%s of nothing succeeds", pass)
		}
	}
	for _, args := range [][]string{{}, {"stat", dir}, {"stat", dir, "long"}, {"read", dir + "/nothing"}, {"fetch", dir + "/nothing"}} {
		if worker(args) != 1 {
			t.Errorf("worker %q succeeds", args)
		}
	}
}

// TestOneByOne: the stand-in verifies what it fetches.
func TestOneByOne(t *testing.T) {
	b := newTestBench(t)
	tree := cvmfstest.NewTree()
	tree.File("file", prose(1, 1000), 0o644)
	s, revision, err := b.publish(t.Context(), tree, cvmfstest.Options{FQRN: "one.example.org"}, "none")
	if err != nil {
		t.Fatal(err)
	}
	path := "/cvmfs/" + s.fqrn + "/" + revision.Objects("file")[0]
	list := filepath.Join(b.scratch, "list")
	if err := os.WriteFile(list, []byte("http://"+s.server.Addr()+path+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := fetchAll(list); err != nil {
		t.Error(err)
	}
	for _, fault := range []cvmfstest.Effect{cvmfstest.FlipBit(3), cvmfstest.Truncate(5), cvmfstest.Status(404)} {
		s.server.Inject(cvmfstest.Path(path), 1, fault)
		if _, err := fetchAll(list); err == nil {
			t.Error("a fault was not noticed")
		}
	}
}

func TestChoose(t *testing.T) {
	for text, want := range map[string]int{"": len(cases), "hot": 1, "hot,launch": 2, "launch hot": 2, "hot,hot": 1} {
		if got, err := choose([]string{text}); len(got) != want || err != nil {
			t.Errorf("%q: %d cases, %v", text, len(got), err)
		}
	}
	if _, err := choose([]string{"hot,cool"}); err == nil {
		t.Error("a case that is not there")
	}
}

func TestTable(t *testing.T) {
	r := &report{Memory: map[string]uint64{"hot": 31e6}, Missing: map[string]string{"cvmfs2": "not in PATH"},
		Skipped: map[string]string{}, Failed: map[string]string{"cold": strings.Repeat("a long story ", 20)}}
	r.add("hot", "a name that is longer than the column has room", "MB/s").ours(15361.4, 15361.4).against("squashfuse_ll and more", 100).fetched(123456789, 12345)
	r.add("cold", "first", "s").ours(3, 1, 2).against("peer", 1, 4, 2, 3).fetched(999, 3).aim(atMost("ours", 2), atMost("ratio", 0.5), atLeast("bytes", 1000))
	var out strings.Builder
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if n := len(strings.TrimSuffix(line, "\n")); n > width {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, want := range []string{

		"cold\n  first                  2.00s    2.50s peer       0.80 1.00kB    3   <=2.00s ok\n",
		"<=0.50x NO\n", ">=1.00kB NO\n", "cold                    FAILED see below\n", "aims: 1 met, 2 missed", "cold first: ratio is 0.80, aim: at most 0.50", "missing: cvmfs2: not in PATH", "hot 31.0MB",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("there is no %q in\n%s", want, out.String())
		}
	}
}

func TestFigures(t *testing.T) {
	for _, c := range []struct {
		value float64
		unit  string
		want  string
	}{
		{862e3, "/s", "862k/s"}, {999600, "/s", "1.00M/s"}, {15361, "MB/s", "15.4GB/s"}, {12, "/s", "12.0/s"}, {0.2345, "s", "0.23s"}, {99.96, "ms", "100ms"}, {9.996, "s", "10.0s"}, {0, "", "0"},
	} {
		if got := figure(c.value, c.unit); got != c.want {
			t.Errorf("%v %s: %s, not %s", c.value, c.unit, got, c.want)
		}
	}
	if median(nil) != 0 || median([]float64{3, 1, 2}) != 2 || median([]float64{4, 1, 2, 3}) != 2.5 {
		t.Error("the median is none")
	}
}

func TestPublish(t *testing.T) {
	r := &report{plots: map[string][]plot{}}
	line := series{name: "a < b & c"}
	line.add(0, 0)
	line.add(200, 19.7)
	r.plot("cold.svg", plot{title: "<title>", lines: []series{line, {name: "empty"}}}, plot{title: "nothing"})
	dir := filepath.Join(t.TempDir(), "bench")
	if err := r.publish(io.Discard, dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "results.json"))
	if err != nil || json.Unmarshal(text, &report{}) != nil {
		t.Errorf("results.json: %v", err)
	}
	f, err := os.Open(filepath.Join(dir, "cold.svg"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for d := xml.NewDecoder(f); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok {
			for _, a := range e.Attr {
				if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
					t.Errorf("%s of %s is %s", a.Name.Local, e.Name.Local, a.Value)
				}
			}
		}
	}
}

// TestStep: an axis has a number of ticks that can be read.
func TestStep(t *testing.T) {
	for most := 0.001; most < 1e6; most *= 1.7 {
		if n := most / step(most); n < 1.5 || n > 10 {
			t.Errorf("%v ticks up to %v", n, most)
		}
	}
}

func TestReferenceConfig(t *testing.T) {
	text := referenceConfig("CVMFS_TIMEOUT=5", "a.example.org", "127.0.0.1:80", "/k.pub", "/cache")
	for _, want := range []string{"CVMFS_TIMEOUT=5\n", "CVMFS_SERVER_URL=http://127.0.0.1:80/cvmfs/a.example.org\n", "CVMFS_PUBLIC_KEY=/k.pub\n", "CVMFS_CACHE_BASE=/cache\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in %q", want, text)
		}
	}
}
