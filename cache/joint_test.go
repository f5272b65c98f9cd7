package cache

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// bring opens key's object as a job does: claimed, looked for again, fetched.
func bring(d *Disk, key string, fetch func() error) (*Object, error) {
	o, err := d.Open(key)
	if err == nil {
		return o, nil
	}
	release, err := d.Claim(context.Background(), key)
	if err != nil {
		return nil, err
	}
	defer release()
	if o, err := d.Open(key); err == nil {
		return o, nil
	}
	if err := fetch(); err != nil {
		return nil, err
	}
	w, err := d.Create(key, -1)
	if err != nil {
		return nil, err
	}
	defer w.Abort()
	if _, err := w.Write(childContent(key)); err != nil {
		return nil, err
	}
	return w.Commit()
}

const jointKeys = 400

// runJointChild brings objects until it is killed, or, told to, each once.
func runJointChild(dir string) {
	if os.Getenv("CACHE_TEST_JOINT") == "claim" {
		runClaimant(dir)
	}
	quota := int64(childQuota)
	once := os.Getenv("CACHE_TEST_JOINT") == "once"
	if once {
		quota = 0
	}
	log, err := os.OpenFile(os.Getenv("CACHE_TEST_FETCHED"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		fmt.Println("FAIL", err)
		os.Exit(1)
	}
	d, err := Open(dir, Options{Quota: quota, Joint: true, FlushEvery: 3 * time.Millisecond})
	if err != nil {
		fmt.Println("FAIL", err)
		os.Exit(1)
	}
	fmt.Println("ready")
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			order := rand.Perm(jointKeys)
			for n := 0; n < jointKeys || !once; n++ {
				key := keyFor(order[n%jointKeys])
				o, err := bring(d, key, func() error { _, err := fmt.Fprintln(log, key); return err })
				if err == nil {
					want := childContent(key)
					err = sumContent(o, o.Size(), sumOf(want))
					o.Close()
				}
				if err == nil && n%20 == 0 {
					err = d.PutMeta("child", key, []byte(key))
				}
				if err != nil {
					fmt.Println("FAIL", err)
					os.Exit(1)
				}
			}
		})
	}
	readers.Wait()
	if err := d.Close(); err != nil {
		fmt.Println("FAIL", err)
	}
	os.Exit(0)
}

// children starts n processes on dir and returns how to end them; a process
// that says anything but that it is ready fails the test.
func children(t *testing.T, n int, dir, how string) (killed func(int), done func()) {
	t.Helper()
	var cmds []*exec.Cmd
	var said []*bufio.Scanner
	for range n {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CACHE_TEST_CHILD="+dir, "CACHE_TEST_JOINT="+how, "CACHE_TEST_FETCHED="+dir+".fetched")
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		cmds, said = append(cmds, cmd), append(said, bufio.NewScanner(out))
	}
	for i := range cmds {
		if !said[i].Scan() || said[i].Text() != "ready" {
			t.Errorf("child: %q", said[i].Text())
		}
	}
	return func(i int) { cmds[i].Process.Kill() }, func() {
		for i, cmd := range cmds {
			for said[i].Scan() {
				t.Errorf("child: %s", said[i].Text())
			}
			cmd.Wait()
		}
	}
}

// TestJointlyOnce: eight processes want the same objects; each is fetched once.
func TestJointlyOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	_, done := children(t, 8, dir, "once")
	done()
	b, err := os.ReadFile(dir + ".fetched")
	if n := strings.Count(string(b), "\n"); err != nil || n != jointKeys {
		t.Errorf("%d objects fetched %d times, %v", jointKeys, n, err)
	}
	d := openDisk(t, dir, Options{}) // sole use
	checkAccounts(t, d)
	for _, i := range []int{0, 1, jointKeys - 1} {
		wantContent(t, d, keyFor(i), childContent(keyFor(i)))
	}
	if names, _ := os.ReadDir(filepath.Join(dir, tmpDir)); len(names) > 0 {
		t.Errorf("left in tmp: %v", names)
	}
}

// TestJointlyKilled kills one of four processes after the other, at any instant.
// The others and those that follow get the right bytes, and the quota holds.
func TestJointlyKilled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	rounds := 10
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		kill, done := children(t, 4, dir, "loop")
		for i := range 4 {
			<-time.After(time.Duration(rand.IntN(30_000)) * time.Microsecond) // the instant is what is random
			kill(i)
		}
		done()
		size := int64(0)
		d := openDisk(t, dir, Options{})
		for _, e := range d.List() {
			wantContent(t, d, e.Key, childContent(e.Key))
			size += e.Size + trailerSize
		}
		checkAccounts(t, d)
		// Beyond the quota by what twelve readers may have had in use or under way,
		// and by what was not counted yet when its maker was killed.
		if size > childQuota+24*8000 {
			t.Errorf("round %d: %d bytes, quota %d", round, size, childQuota)
		}
		d.ForEachMeta("child", func(k string, v []byte) error {
			if k != string(v) {
				t.Errorf("value %q is %q", k, v)
			}
			return nil
		})
		d.Close()
		if t.Failed() {
			return
		}
	}
}

func joint(t *testing.T, dir string, quota int64) *Disk {
	t.Helper()
	d, err := Open(dir, Options{Quota: quota, Joint: true, FlushEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	if err := d.Settle(context.Background()); err != nil {
		t.Fatal(err)
	}
	return d
}

// jointDir is a directory that is checked when all have left it.
func jointDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() { checkDir(t, dir) })
	return dir
}

// TestJointQuota: the quota is that of all together, what any has in use stays,
// and who used an object last does not matter.
func TestJointQuota(t *testing.T) {
	dir := jointDir(t)
	a, b := joint(t, dir, 10_000), joint(t, dir, 10_000)
	held := store(t, a, keyFor(0), contentFor(keyFor(0), 936))
	defer held.Close()
	for i := 1; i < 30; i++ {
		d := a
		if i%2 == 1 {
			d = b
		}
		store(t, d, keyFor(i), contentFor(keyFor(i), 936)).Close()
	}
	eventually(t, "the quota holds", func() bool { return filesIn(t, dir) <= 9_500 })
	if _, err := os.Stat(onlyFile(b, keyFor(0))); err != nil {
		t.Errorf("an object that the other has in use is gone: %v", err)
	}
	if n := a.Stats().Evictions + b.Stats().Evictions; n < 20 {
		t.Errorf("%d evictions", n)
	}
}

// filesIn is the size of all objects below dir.
func filesIn(t *testing.T, dir string) (size int64) {
	t.Helper()
	filepath.Walk(filepath.Join(dir, objectsDir), func(_ string, fi os.FileInfo, err error) error {
		if err == nil && fi.Mode().IsRegular() {
			size += fi.Size()
		}
		return nil
	})
	return size
}

// TestJointAndSole: neither gets in while the other is there; values and pins
// pass from one to the other.
func TestJointAndSole(t *testing.T) {
	dir := t.TempDir()
	sole := openDisk(t, dir, Options{})
	fill(t, sole, 0, 3, 100)
	if err := errors.Join(sole.PutMeta("b", "kept", []byte("1")), sole.PutMeta("b", "changed", []byte("1")),
		sole.PutMeta("b", "deleted", []byte("1")), sole.Pin(keyFor(0), "owner")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{Joint: true}); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("beside sole use: %v", err)
	}
	sole.Close()
	a, b := joint(t, dir, 200), joint(t, dir, 200)
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "jobs") {
		t.Errorf("beside joint use: %v", err)
	}
	if err := errors.Join(a.PutMeta("b", "changed", []byte("2")), a.DeleteMeta("b", "deleted"), a.PutMeta("b", "new", nil), a.Flush()); err != nil {
		t.Fatal(err)
	}
	wantMeta(t, b, map[string]string{"kept": "1", "changed": "2", "new": ""})
	if err := errors.Join(a.PutMeta("b", "passing", []byte("4")), a.Flush(), b.DeleteMeta("b", "passing"), b.DeleteMeta("b", "never"), b.Flush()); err != nil {
		t.Fatal(err)
	}
	wantMeta(t, a, map[string]string{"kept": "1", "changed": "2", "new": ""})
	if names, err := os.ReadDir(filepath.Join(dir, metaDir)); err != nil || len(names) != 3 {
		t.Errorf("%d files of values, %v; want 3: what was deleted and the index never had leaves none", len(names), err)
	}
	if err := b.Pin(keyFor(1), "x"); !errors.Is(err, ErrLocked) {
		t.Errorf("pin: %v", err)
	}
	fill(t, b, 3, 5, 100)
	eventually(t, "the quota holds but for the pin", func() bool { return filesIn(t, dir) <= 200 })
	if !cached(t, b, keyFor(0)) {
		t.Error("a pinned object is gone")
	}
	a.Close()
	b.Close()
	sole = openDisk(t, dir, Options{})
	wantMeta(t, sole, map[string]string{"kept": "1", "changed": "2", "new": ""})
	sole.PutMeta("b", "changed", []byte("3"))
	sole.Close()
	wantMeta(t, joint(t, dir, 0), map[string]string{"kept": "1", "changed": "3", "new": ""})
}

func wantMeta(t *testing.T, d *Disk, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	if err := d.ForEachMeta("b", func(k string, v []byte) error { got[k] = string(v); return nil }); err != nil {
		t.Error(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("values %v, want %v", got, want)
	}
}

// TestSweepLeavesWriters: a process that comes later does not take away what
// another one is writing, however long that takes.
func TestSweepLeavesWriters(t *testing.T) {
	dir := jointDir(t)
	a := joint(t, dir, 0)
	w, err := a.Create(keyFor(0), -1)
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("slow"))
	long := time.Now().Add(-time.Hour)
	dead := filepath.Join(dir, tmpDir, "new-dead.part")
	os.WriteFile(dead, nil, 0o600)
	for _, path := range []string{dead, w.f.Name()} {
		if err := os.Chtimes(path, long, long); err != nil {
			t.Fatal(err)
		}
	}
	joint(t, dir, 0)
	if _, err := os.Stat(dead); !isGone(err) {
		t.Errorf("a dead process's part is there: %v", err)
	}
	o, err := w.Commit()
	if err != nil || o.Path() == "" {
		t.Fatalf("%+v, %v", o, err)
	}
	o.Close()
}

// TestJointAfterPowerLoss: the first process of a boot sums what is older; the
// others find that done.
func TestJointAfterPowerLoss(t *testing.T) {
	dir := jointDir(t)
	a := joint(t, dir, 0)
	fill(t, a, 0, 2, 5000)
	a.Close()
	os.WriteFile(filepath.Join(dir, bootFile), []byte("another-boot 1\n"), 0o600)
	old := time.Now().Add(-time.Minute)
	for i := range 2 {
		os.Chtimes(onlyFile(a, keyFor(i)), old, old)
	}
	f, err := os.OpenFile(onlyFile(a, keyFor(1)), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt(make([]byte, 4096), 0) // blocks that did not reach the disk
	f.Close()
	os.Chtimes(onlyFile(a, keyFor(1)), old, old)
	b := joint(t, dir, 0)
	if !cached(t, b, keyFor(0)) || cached(t, b, keyFor(1)) {
		t.Error("the whole object must be there, the damaged one not")
	}
	if fi, err := os.Stat(onlyFile(b, keyFor(0))); err != nil || fi.ModTime().UnixNano() <= joint(t, dir, 0).state.until {
		t.Errorf("the object that was summed is still in doubt: %v", err)
	}
}

func FuzzJointMeta(f *testing.F) {
	f.Add(encodeMeta("bucket\x00key", []byte("value")))
	f.Add(encodeMeta("bucket\x00key", nil))
	f.Add([]byte{255, 255, 255, 255, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		key, value, ok := decodeMeta(b)
		if ok && string(encodeMeta(key, value)) != string(b) {
			t.Errorf("%q: %q is another encoding", b, key)
		}
	})
}
