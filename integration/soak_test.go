package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// Who takes part in the soak, and what happens to them.
const (
	soakReaders   = 160
	soakFinders   = 34
	soakLaunchers = 6
	soakFiles     = 240
	soakFileSize  = 120_000 // bytes, on average
	soakRevision  = 3 * time.Second
	soakProxy     = 10 * time.Second // one of the two dies that often, for soakDead
	soakDead      = 2 * time.Second
	soakKill      = 20 * time.Second
)

// soak is a mount under load, and what makes its life hard.
type soak struct {
	*mounted
	t       *testing.T
	repo    *cvmfstest.Repository
	tree    *cvmfstest.Tree
	proxies [2]*stratum
	profile string // address of the daemon's profiles
	orders  string // file
	clients []*soaker
	kills   int // of workers
}

type soaker struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	begun  chan struct{} // closed after its first round
	done   chan struct{}
	rounds int
	errs   []string
}

// soakTime is a minute, or what make soak MINUTES= says.
func soakTime(t *testing.T) time.Duration {
	text := os.Getenv("SOAK_MINUTES")
	if text == "" {
		return time.Minute
	}
	minutes, err := strconv.ParseFloat(text, 64)
	if err != nil || minutes <= 0 {
		t.Fatalf("SOAK_MINUTES=%q is no number of minutes", text)
	}
	return time.Duration(minutes * float64(time.Minute))
}

// newSoak publishes the repository behind two proxies and mounts it with a quota
// of a third of what is read.
func newSoak(t *testing.T) *soak {
	t.Helper()
	s := &soak{t: t, tree: cvmfstest.NewTree(), proxies: [2]*stratum{newStratum(t), newStratum(t)}}
	o := soakOrders{Hashes: map[string]string{}}
	dirs := map[string]bool{"": true}
	for i := range soakFiles {
		content := pattern(i, soakFileSize/2+i*soakFileSize/soakFiles)
		dir := fmt.Sprintf("d%d", i%12)
		name := fmt.Sprintf("%s/f%d", dir, i)
		dirs[dir] = true
		sum := sha256.Sum256(content)
		o.Hashes[name] = hex.EncodeToString(sum[:])
		s.tree.File("stable/"+name, content, 0o644)
	}
	o.Entries = len(o.Hashes) + len(dirs) + 1 // the marker of the nested catalog
	s.tree.Nested("stable")
	s.tree.File("moving/number", []byte("revision 0\n"), 0o644)
	s.tree.Nested("moving")
	liveImage(s.tree, busyboxBinary(t), liveName, "mark0", "live")
	repo, _, src := s.proxies[0].publish(cvmfstest.Options{FQRN: "soak.example.org", ChunkSize: 64 << 10}, s.tree)
	s.repo = repo
	s.proxies[1].Add(repo.FQRN, repo.Store)
	src.Servers = []string{"http://127.0.0.1:1/cvmfs/@fqrn@"} // the proxies answer for it
	src.Proxies = "http://" + s.proxies[0].Addr() + ";http://" + s.proxies[1].Addr()
	src.Layout = "neurodesk"
	s.profile = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	quota := fmt.Sprint(soakFiles * soakFileSize / 3)
	s.mounted = mount(t, setup{Sources: []source{src}, Quota: quota, Args: []string{"--pprof", s.profile}})
	s.Indexed()
	o.Dir, o.Moving = s.Raw(repo.FQRN, "stable"), s.Raw(repo.FQRN, "moving/number")
	o.Command, o.Prints = []string{s.Path("bin/live"), "x"}, "mark0 x\n"
	b, err := json.Marshal(o)
	s.orders = filepath.Join(shortDir(t), "orders")
	if err == nil {
		err = os.WriteFile(s.orders, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// client starts one.
func (s *soak) client(role string) {
	s.t.Helper()
	c := &soaker{cmd: exec.Command("/proc/self/exe", role), begun: make(chan struct{}), done: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), soakVariable+"="+s.orders, "GOMAXPROCS=1", "NEURODESK_RUNTIME="+soakRuntime())
	stdin, err := c.cmd.StdinPipe()
	var out io.ReadCloser
	if err == nil {
		c.stdin = stdin
		out, err = c.cmd.StdoutPipe()
	}
	if err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.clients = append(s.clients, c)
	s.t.Cleanup(func() { // after a failure it would go on, and hold the mount
		_ = c.cmd.Process.Kill()
		select {
		case <-c.done:
		case <-time.After(commandPatience):
			s.t.Errorf("%q does not die", c.cmd.Args)
		}
	})
	go func() {
		defer close(c.done)
		c.rounds, c.errs = soakReport(out, c.begun)
		if err := c.cmd.Wait(); err != nil {
			c.errs = append(c.errs, err.Error())
		}
	}()
}

// soakRuntime is the faster one, where it is installed.
func soakRuntime() string {
	if _, err := exec.LookPath("bwrap"); err == nil {
		return "bwrap"
	}
	return "apptainer"
}

// revisions publishes and shows one revision after the other until stop is closed.
func (s *soak) revisions(stop <-chan struct{}) (n int) {
	for tick := time.NewTicker(soakRevision); ; {
		select {
		case <-stop:
			tick.Stop()
			return n
		case <-tick.C:
		}
		n++
		s.tree.File("moving/number", fmt.Appendf(nil, "revision %d\n", n), 0o644)
		s.tree.File(fmt.Sprintf("moving/new%d", n), nil, 0o644)
		if _, err := s.repo.Publish(s.t.Context(), s.tree); err != nil {
			s.t.Error(err)
			return n
		}
		s.show()
	}
}

// show asks for the revision that was published. A worker that is killed takes
// the question with it, and the next one is asked again.
func (s *soak) show() {
	var r result
	var err error
	if !poll(2*commandPatience, func() bool {
		r, err = runCommand(exec.Command(program(s.t), "reload", s.Dir))
		return err == nil && r.Status == 0
	}) {
		s.t.Errorf("reload: %v, %s", err, r.Stderr)
	}
}

// killProxies lets one of the two die, in the middle of whatever it sends, and
// come back, until stop is closed. The other one dies long after: a request that
// meets both deaths rightly fails, and on a slow machine one lasts for seconds.
func (s *soak) killProxies(stop <-chan struct{}) (n int) {
	ended := func(after time.Duration) bool {
		select {
		case <-stop:
			return true
		case <-time.After(after):
			return false
		}
	}
	for !ended(soakProxy - soakDead) {
		dead := s.proxies[n%2].Inject(cvmfstest.All, 0, cvmfstest.Drop(500))
		n++
		over := ended(soakDead)
		dead.Remove()
		if over {
			return n
		}
	}
	return n
}

// usage is what a worker holds. A connection to a proxy stays open for a while
// after its last use, and then holds a descriptor and two goroutines; it is
// counted for itself, as how many there are is chance.
type usage struct {
	pid         int
	resident    int64 // bytes
	descriptors int   // other than of connections
	connections int
	goroutines  int // other than of connections
	supervisor  int // descriptors of the supervisor
}

// usage looks at the worker that serves now; false: it ended meanwhile.
func (s *soak) usage() (u usage, ok bool) {
	s.t.Helper()
	st := s.Status()
	u.pid = st.Worker.PID
	supervisor, connections, err := descriptorsOf(st.PID)
	if err != nil {
		s.t.Fatalf("the supervisor: %v", err)
	}
	u.supervisor = supervisor + connections
	if u.descriptors, u.connections, err = descriptorsOf(u.pid); err != nil {
		return u, false
	}
	r, err := http.Get("http://" + s.profile + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return u, false
	}
	defer r.Body.Close()
	if _, err := fmt.Fscanf(r.Body, "goroutine profile: total %d", &u.goroutines); err != nil {
		return u, false
	}
	u.goroutines -= 2 * u.connections
	u.resident, err = residentOf(u.pid)
	return u, err == nil && s.Status().Worker.PID == u.pid
}

// descriptorsOf counts what a process has open, sockets apart.
func descriptorsOf(pid int) (others, sockets int, err error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	for _, fd := range fds {
		if to, _ := os.Readlink(filepath.Join(dir, fd.Name())); strings.HasPrefix(to, "socket:") {
			sockets++
		} else {
			others++
		}
	}
	return others, sockets, err
}

// most is the greatest of each.
func most(list []usage) (m usage) {
	for _, u := range list {
		m = usage{u.pid, max(m.resident, u.resident), max(m.descriptors, u.descriptors), max(m.connections, u.connections), max(m.goroutines, u.goroutines), max(m.supervisor, u.supervisor)}
	}
	return m
}

// TestSoak: two hundred processes read, walk and launch while revisions move,
// proxies and workers die and the cache holds a third of what is read. No wrong
// byte, no error, and nothing grows.
func TestSoak(t *testing.T) {
	length := soakTime(t)
	s := newSoak(t)
	before, ok := s.usage()
	if !ok {
		t.Fatal("the first worker ended by itself")
	}
	for role, n := range map[string]int{"read": soakReaders, "find": soakFinders, "launch": soakLaunchers} {
		for range n {
			s.client(role)
		}
	}
	s.awaitClients()
	stop := make(chan struct{})
	var trouble sync.WaitGroup
	moved, killed := 0, 0
	trouble.Go(func() { moved = s.revisions(stop) })
	trouble.Go(func() { killed = s.killProxies(stop) })
	samples := s.sample(length)
	close(stop)
	trouble.Wait()
	rounds := s.endClients()
	if few := func(n int, every time.Duration) bool { return n < max(2, int(length/every)/10) }; few(moved, soakRevision) || few(killed, soakProxy) || rounds < 2*len(s.clients) {
		t.Errorf("%d revisions, %d proxies killed, %d rounds: too little happened", moved, killed, rounds)
	}
	s.noGrowth(before, samples)
	st := s.Status()
	t.Logf("%s: %d processes, %d rounds, %d revisions, %d proxies and %d workers killed, longest pause %.1f ms, %d objects evicted by the last worker, %d kernel requests, %d I/O errors",
		length, len(s.clients), rounds, moved, killed, s.kills, st.Worker.LongestPause, st.Cache.Evictions, st.Fuse.Total, st.IOErrors)
	if st.IOErrors > 0 || st.Cache.Evictions == 0 || st.Cache.Degraded || st.Worker.Restarts != uint64(s.kills) || s.kills == 0 && length > 2*soakKill {
		t.Errorf("%d workers killed, %d take-overs, %d I/O errors, %+v", s.kills, st.Worker.Restarts, st.IOErrors, st.Cache)
	}
}

// awaitClients waits until each has done its work once: two hundred processes
// take a while to start, and more of everything is in use with each.
func (s *soak) awaitClients() {
	s.t.Helper()
	late := time.After(commandPatience)
	for _, c := range s.clients {
		select {
		case <-c.begun:
		case <-c.done:
			s.t.Fatalf("a client ended before it began: %q", c.errs)
		case <-late:
			s.t.Fatalf("not all clients began within %s", commandPatience)
		}
	}
}

// sample looks at the worker sixty times in length or more, and kills it every soakKill.
func (s *soak) sample(length time.Duration) (samples []usage) {
	tick := time.NewTicker(min(length/60, soakKill/2))
	defer tick.Stop()
	begun := time.Now()
	for time.Since(begun) < length {
		u, ok := s.usage()
		if ok {
			samples = append(samples, u)
		}
		if ok && time.Since(begun) >= time.Duration(s.kills+1)*soakKill && syscall.Kill(u.pid, syscall.SIGKILL) == nil {
			s.kills++
		}
		<-tick.C
	}
	return samples
}

// endClients ends all and returns how much they did. What they report makes one
// line.
func (s *soak) endClients() (rounds int) {
	s.t.Helper()
	for _, c := range s.clients {
		c.stdin.Close()
	}
	var bad []string
	late := time.After(commandPatience)
	for _, c := range s.clients {
		select {
		case <-c.done:
		case <-late:
			bad = append(bad, fmt.Sprintf("%q does not end within %s", c.cmd.Args, commandPatience))
			c.cmd.Process.Kill()
			<-c.done
		}
		rounds += c.rounds
		bad = append(bad, c.errs...)
	}
	if len(bad) > 0 {
		wrong := func(text string) int { return -strings.Count(text, "WRONG BYTES") }
		slices.SortStableFunc(bad, func(a, b string) int { return wrong(a) - wrong(b) })
		s.t.Errorf("clients report %d errors, the worst of them: %s", len(bad), strings.Join(bad[:min(len(bad), 40)], "; "))
	}
	return rounds
}

// noGrowth compares what is left when all is quiet with what was there at first,
// and the memory of the last third with the one before.
func (s *soak) noGrowth(before usage, samples []usage) {
	s.t.Helper()
	third := len(samples) / 3
	if third == 0 {
		s.t.Fatalf("the worker was seen %d times only", len(samples))
	}
	middle, last := most(samples[third:2*third]), most(samples[2*third:])
	// How many wait at one time is chance, and more on a slow machine: 200
	// processes, each with a few requests of its own and what is fetched ahead for
	// them. What leaks with each round is far beyond: there are thousands.
	const busy = 200 * 16
	if last.resident > middle.resident*5/4+(32<<20) || last.descriptors > busy || last.goroutines > busy || last.supervisor > before.supervisor+10 {
		s.t.Errorf("it grows: at first %+v, at most %+v, then %+v", before, middle, last)
	}
	run(s.t, exec.Command(program(s.t), "cache", "prune", "--to", "0B", "--mount", s.Dir)) // closes what is only kept open
	var after usage
	if !poll(40*time.Second, func() (ok bool) {
		after, ok = s.usage()
		return ok && after.descriptors <= before.descriptors+40 && after.goroutines <= before.goroutines+50 && after.supervisor <= before.supervisor+2
	}) {
		s.t.Errorf("left behind: at first %+v, in the end %+v", before, after)
	}
	s.t.Logf("at first %+v, at most %+v and then %+v, at last %+v", before, middle, last, after)
}
