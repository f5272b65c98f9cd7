package integration

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// switches is how many revisions the survivors live through; at republished the
// very image that they use is published anew, at retired it goes, and so does the
// directory that a shell stands in.
const (
	switches    = 10
	republished = 4
	retired     = 8
)

// liveName is the image that everything runs from.
const liveName = "live_1.0_20260101"

// liveSite is a repository in Neurodesk's layout whose revisions follow each other
// under a mount.
type liveSite struct {
	*mounted
	t       *testing.T
	repo    *cvmfstest.Repository
	tree    *cvmfstest.Tree
	busybox []byte
	part    []byte // a large file of the image
	mark    string // what the image's command prints
}

func newLiveSite(t *testing.T) *liveSite {
	t.Helper()
	l := &liveSite{t: t, tree: cvmfstest.NewTree(), busybox: busyboxBinary(t), part: pattern(1, 4<<20), mark: "mark0"}
	l.image()
	for i := range 1500 {
		l.tree.File(fmt.Sprintf("data/many/stays%04d", i), []byte(fmt.Sprint(i)), 0o644)
	}
	l.tree.File("data/part", l.part, 0o644)
	l.tree.File("data/inside/same", []byte("same\n"), 0o644)
	l.tree.Nested("data")
	l.step(0)
	repo, _, src := newStratum(t).publish(cvmfstest.Options{FQRN: "live.example.org", ChunkSize: 256 << 10}, l.tree)
	src.Layout = "neurodesk"
	l.repo = repo
	l.mounted = mount(t, setup{Sources: []source{src}})
	l.Indexed()
	return l
}

func (l *liveSite) image() {
	liveImage(l.tree, l.busybox, liveName, l.mark, "live")
	root := "containers/" + liveName + "/" + liveName + ".simg"
	l.tree.File(root+"/usr/data/part", l.part, 0o644)
	l.tree.File(root+"/usr/data/stamp", []byte(l.mark), 0o644)
	for i := range 50 {
		l.tree.File(fmt.Sprintf("%s/usr/data/many/f%d", root, i), []byte(fmt.Sprint(i)), 0o644)
	}
}

// step changes the tree for the next revision.
func (l *liveSite) step(n int) {
	l.tree.File("data/changing", []byte(fmt.Sprintf("revision %d\n", n)), 0o644)
	l.tree.File(fmt.Sprintf("data/many/new%d", n), nil, 0o644)
	if n < retired {
		l.tree.File("data/inside/changing", []byte(fmt.Sprint(n)), 0o644)
	}
	if n > 0 {
		l.tree.Remove(fmt.Sprintf("data/many/new%d", n-1))
		liveImage(l.tree, l.busybox, fmt.Sprintf("extra%d_1.0_20260101", n), fmt.Sprintf("extra%d", n), fmt.Sprintf("extra%d", n))
	}
	switch n {
	case republished:
		l.mark = "mark1"
		l.tree.Remove("containers/" + liveName)
		l.part = pattern(2, 4<<20)
		l.image()
	case retired:
		l.tree.Remove("containers/" + liveName + "/" + liveName + ".simg")
		l.tree.Remove("data/inside")
	}
}

// next publishes the next revision and shows it.
func (l *liveSite) next(n int) {
	l.t.Helper()
	l.step(n)
	if _, err := l.repo.Publish(l.t.Context(), l.tree); err != nil {
		l.t.Fatal(err)
	}
	l.reload(l.t)
	if b, err := os.ReadFile(l.Raw(l.repo.FQRN, "data/changing")); err != nil || string(b) != fmt.Sprintf("revision %d\n", n) {
		l.t.Errorf("after the switch to %d: %q, %v", n, b, err)
	}
	want := l.mark + " x\n"
	if n >= retired {
		want = ""
	}
	if r := l.Run(l.Path("bin/live"), "x"); r.Stdout != want {
		l.t.Errorf("switch %d: bin/live says %q, want %q; exit status %d, %s", n, r.Stdout, want, r.Status, r.Stderr)
	}
	if r := l.Run(fmt.Sprintf("extra%d", n), "x"); r.Stdout != fmt.Sprintf("extra%d x\n", n) {
		l.t.Errorf("switch %d: the new app's command says %q, %s", n, r.Stdout, r.Stderr)
	}
}

// resident is a shell somewhere that answers questions for as long as it lives.
type resident struct {
	what   string
	in     io.WriteCloser
	out    *bufio.Reader
	answer map[string]string // the first to each question
}

const residentLoop = `while read -r line; do eval "$line" 2>&1; echo "status $?"; done`

// settle starts a program that runs residentLoop and ends it with the test.
func settle(t *testing.T, what string, c *exec.Cmd) *resident {
	t.Helper()
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var diag bytes.Buffer
	c.Stderr = &diag
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := c.Wait(); err != nil {
			t.Errorf("%s ended with %v: %s", what, err, diag.String())
		}
	})
	return &resident{what: what, in: in, out: bufio.NewReader(out), answer: map[string]string{}}
}

// ask puts a question and reports an answer that is not the first one.
func (r *resident) ask(t *testing.T, question string) {
	t.Helper()
	var text strings.Builder
	_, err := io.WriteString(r.in, question+"\n")
	for err == nil && !strings.HasPrefix(text.String(), "status ") && !strings.Contains(text.String(), "\nstatus ") {
		var line string
		line, err = r.out.ReadString('\n')
		text.WriteString(line)
	}
	got := text.String()
	first, asked := r.answer[question]
	switch {
	case err != nil:
		t.Errorf("%s: %q: %q, %v", r.what, question, got, err)
	case !asked && strings.HasSuffix(got, "status 0\n"):
		r.answer[question] = got
	case got != first:
		t.Errorf("%s: %q says %q, said %q", r.what, question, got, first)
	}
}

// TestSurviveSwitches holds on to everything through ten revisions under load.
func TestSurviveSwitches(t *testing.T) {
	needApptainer(t)
	l := newLiveSite(t)
	rootfs, err := filepath.EvalSymlinks(l.Path("apps/live/1.0/rootfs"))
	if err != nil {
		t.Fatal(err)
	}
	held := holdFiles(t, l)
	stream := openStream(t, l.Raw(l.repo.FQRN, "data/many"))
	residents := l.residents(rootfs)
	over := l.overlay(rootfs)
	ask := func() {
		for _, r := range residents {
			r.ask(t, "pwd; ls -lR /usr/data; cat /usr/data/stamp; sha256sum /usr/data/part /bin/busybox")
			r.ask(t, "cat /data/bound; grep -c . /proc/self/mountinfo; /usr/bin/live y")
		}
	}
	ask()
	inside := settle(t, "the shell in M/cvmfs", inDir(exec.Command("/bin/sh", "-c", residentLoop), l.Raw(l.repo.FQRN, "data/inside")))
	inside.ask(t, "cat same; ls | grep -c .; pwd")
	stopLoad := l.load()
	for n := 1; n <= switches; n++ {
		l.next(n)
		ask()
		inside.ask(t, "cat same; ls | grep -c .; pwd")
		held.check(t)
		stream.some(t, 100)
		over.check(t, n)
	}
	stopLoad()
	stream.end(t)
	if s := l.Status(); s.IOErrors != 0 {
		t.Errorf("%d I/O errors", s.IOErrors)
	}
}

func inDir(c *exec.Cmd, dir string) *exec.Cmd {
	c.Dir = dir
	return c
}

// residents starts containers from the image, each with a bind. Without
// --contain, mounts that come and go in the host's /tmp would show in theirs.
func (l *liveSite) residents(rootfs string) []*resident {
	l.t.Helper()
	host := shortDir(l.t)
	if err := os.WriteFile(filepath.Join(host, "bound"), []byte("bound\n"), 0o644); err != nil {
		l.t.Fatal(err)
	}
	apptainer := exec.Command("apptainer", "--silent", "exec", "--cleanenv", "--contain", "--pwd", "/", "--bind", host+":/data", rootfs, "/bin/sh", "-c", residentLoop)
	bwrap := exec.Command(installed(l.t, "bwrap"), "--ro-bind", rootfs, "/", "--proc", "/proc", "--dev", "/dev", "--bind", host, "/data", "--chdir", "/", "/bin/sh", "-c", residentLoop)
	return []*resident{settle(l.t, "apptainer", apptainer), settle(l.t, "bwrap", bwrap)}
}

// load walks and reads all views until it is stopped. Names may go meanwhile;
// nothing else may fail.
func (l *liveSite) load() (stop func()) {
	var done atomic.Bool
	var wait sync.WaitGroup
	for _, top := range []string{"bin", "apps", "cvmfs/" + l.repo.FQRN + "/containers", "cvmfs/" + l.repo.FQRN + "/data"} {
		wait.Go(func() {
			for !done.Load() {
				err := filepath.WalkDir(l.Path(top), func(p string, d iofs.DirEntry, err error) error {
					if err == nil && d.Type().IsRegular() {
						_, err = os.ReadFile(p)
					}
					if errors.Is(err, iofs.ErrNotExist) {
						return nil
					}
					if done.Load() {
						return filepath.SkipAll
					}
					return err
				})
				if err != nil {
					l.t.Errorf("under load: %v", err)
					return
				}
			}
		})
	}
	stop = sync.OnceFunc(func() {
		done.Store(true)
		wait.Wait()
	})
	l.t.Cleanup(stop)
	return stop
}
