package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

const (
	killFQRN    = "kill.example.org"
	killRounds  = 200
	killFiles   = 300
	killLargest = 60_000 // bytes of a file
	killReaders = 4
	trailerSize = 64 // behind the content of each object in the cache
)

// killed is one daemon after the other, all at one place with one cache.
type killed struct {
	*mounted
	t       *testing.T
	files   map[string][]byte
	names   []string
	next    atomic.Int64
	reads   atomic.Int64
	evicted int64    // by daemons that are dead
	output  *os.File // log of all of them
	last    *daemonRun
}

// daemonRun is one of the daemons.
type daemonRun struct {
	cmd   *exec.Cmd
	ready chan string // what it told its parent, closed at its end
}

func newKilled(t *testing.T) *killed {
	t.Helper()
	k := &killed{t: t, files: map[string][]byte{}}
	random := rand.NewChaCha8([32]byte{2})
	tree, total := cvmfstest.NewTree(), 0
	for i := range killFiles {
		content := make([]byte, 1000+i*(killLargest-1000)/killFiles)
		random.Read(content) // cannot be compressed
		name := fmt.Sprintf("dir%d/file%d", i%10, i)
		tree.File(name, content, 0o644)
		k.files[name], k.names = content, append(k.names, name)
		total += len(content)
	}
	for i := range 5 {
		tree.Nested(fmt.Sprintf("dir%d", i))
	}
	rand.Shuffle(len(k.names), func(i, j int) { k.names[i], k.names[j] = k.names[j], k.names[i] })
	_, _, src := newStratum(t).publish(cvmfstest.Options{FQRN: killFQRN}, tree)
	s, file := setup{Sources: []source{src}, Quota: fmt.Sprint(total / 3)}.prepare(t)
	k.mounted = &mounted{Dir: s.Dir, Cache: s.Cache, Config: file, t: t}
	log, err := os.Create(filepath.Join(shortDir(t), "log"))
	if err != nil {
		t.Fatal(err)
	}
	k.output = log
	t.Cleanup(func() {
		if k.last != nil && k.last.cmd.ProcessState == nil {
			k.last.cmd.Process.Kill()
			k.last.cmd.Wait()
		}
		k.cleanUp()
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("the last the daemons logged:\n%s", b[max(0, len(b)-20_000):])
		}
		log.Close()
	})
	return k
}

// start starts a daemon as mount does, without the process between.
func (k *killed) start() *daemonRun {
	k.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		k.t.Fatal(err)
	}
	d := &daemonRun{ready: make(chan string, 1)}
	d.cmd = exec.Command(program(k.t), "mount", "--foreground", "--ready-fd=3", "--config="+k.Config, "--", k.Dir)
	d.cmd.Stdout, d.cmd.Stderr, d.cmd.ExtraFiles = k.output, k.output, []*os.File{w}
	if err := d.cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	k.last = d
	w.Close()
	go func() {
		defer r.Close()
		b := make([]byte, 1000)
		n, _ := r.Read(b)
		d.ready <- string(b[:n])
	}()
	return d
}

// up waits until the daemon has mounted.
func (k *killed) up(d *daemonRun) {
	k.t.Helper()
	if said := <-d.ready; said != "ready\n" {
		d.cmd.Wait()
		k.t.Fatalf("the daemon did not mount: %q", said)
	}
}

// kill is kill -9.
func (k *killed) kill(d *daemonRun) {
	k.t.Helper()
	// The supervisor first: a worker that ends alone is followed.
	if err := d.cmd.Process.Kill(); err != nil {
		k.t.Error(err)
	}
	k.killAll()
	var exit *exec.ExitError
	if err := d.cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		k.t.Errorf("the daemon ended by itself: %v", err)
	}
}

// read reads the next file, and reports whether it could be read.
func (k *killed) read() bool {
	name := k.names[int(k.next.Add(1))%len(k.names)]
	b, err := os.ReadFile(k.Raw(killFQRN, name))
	if err != nil {
		return false
	}
	k.reads.Add(1)
	if !bytes.Equal(b, k.files[name]) {
		k.t.Errorf("%s has other bytes", name)
	}
	return true
}

// readUntilKilled reads all the time. Nothing may fail before the daemon is killed.
func (k *killed) readUntilKilled(d *daemonRun, after time.Duration) {
	k.t.Helper()
	var dying atomic.Bool
	var wait sync.WaitGroup
	for range killReaders {
		wait.Go(func() {
			for k.read() {
			}
			if !dying.Load() {
				k.t.Error("a file could not be read")
			}
		})
	}
	// The instant is what is random here; nothing depends on its length.
	<-time.After(after)
	s := k.Status()
	k.evicted += s.Cache.Evictions
	dying.Store(true)
	k.kill(d)
	wait.Wait()
}

// check looks at the cache while nobody reads: what status says is used is in the
// files, within one object, since objects may be being removed.
func (k *killed) check(round int) {
	k.t.Helper()
	const one = killLargest + trailerSize
	if r := neurodeskfs(k.t, "cache", "verify", "--config", k.Config, "--json"); true {
		v := decode[struct {
			Checked, Objects    int
			Damaged, Unreadable []string
		}](k.t, r)
		if r.Status != 0 || v.Checked != v.Objects || len(v.Damaged)+len(v.Unreadable) > 0 {
			k.t.Errorf("round %d: verify: exit status %d, %+v, %s", round, r.Status, v, r.Stderr)
		}
	}
	before := k.Status().Cache
	onDisk := objectBytes(k.t, k.Cache)
	after := k.Status().Cache
	if onDisk < after.Used-one || onDisk > before.Used+one {
		k.t.Errorf("round %d: %d bytes in the files, status says %d before and %d after", round, onDisk, before.Used, after.Used)
	}
	// Beyond the quota by what readers may have had under way and in use.
	if after.Used > after.Quota+2*killReaders*one || after.Degraded {
		k.t.Errorf("round %d: %+v", round, after)
	}
}

// objectBytes is the size of all objects, trailers included. An object may go
// meanwhile.
func objectBytes(t *testing.T, cache string) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(cache, "objects"), func(_ string, d iofs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if errors.Is(err, iofs.ErrNotExist) {
			return nil
		}
		if err == nil {
			sum += fi.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// TestKilledDaemon kills the daemon at 200 instants, of which every fifth is in its
// start and the others in downloads and evictions. After each restart all objects
// are verified and the accounts compared with the files.
func TestKilledDaemon(t *testing.T) {
	k := newKilled(t)
	started := time.Now()
	var starts time.Duration // the time that one takes
	early := 0
	for round := range killRounds {
		if round%5 == 4 {
			d := k.start()
			<-time.After(rand.N(starts + 1))
			k.kill(d)
			early++
			continue
		}
		at := time.Now()
		d := k.start()
		k.up(d)
		starts = time.Since(at)
		k.check(round)
		k.readUntilKilled(d, rand.N(100*time.Millisecond))
		if t.Failed() {
			break
		}
	}
	k.restarted()
	took := time.Since(started)
	t.Logf("%d kills, of which %d in the start; %d reads, %d objects evicted; %s", killRounds, early, k.reads.Load(), k.evicted, took)
	if k.reads.Load() < killFiles || k.evicted < killFiles {
		t.Errorf("too little was read or evicted")
	}
}

// restarted mounts a last time, reads everything, and unmounts.
func (k *killed) restarted() {
	k.t.Helper()
	d := k.start()
	k.up(d)
	for range k.names {
		if !k.read() {
			k.t.Error("a file cannot be read")
		}
	}
	k.check(killRounds)
	k.Unmount()
	ctx, cancel := context.WithTimeout(context.Background(), commandPatience)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { d.cmd.Process.Kill() })
	defer stop()
	if err := d.cmd.Wait(); err != nil {
		k.t.Errorf("the last daemon ended with %v", err)
	}
	if b, err := os.ReadFile(k.output.Name()); err != nil || strings.Contains(string(b), "level=ERROR") || strings.Contains(string(b), "damaged") {
		k.t.Errorf("the daemons logged an error, or %v", err)
	}
}
