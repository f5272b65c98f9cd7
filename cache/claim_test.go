package cache

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// runClaimant claims key 0 and holds on to it.
func runClaimant(dir string) {
	d, err := Open(dir, Options{Joint: true})
	if err == nil {
		_, err = d.Claim(context.Background(), keyFor(0))
	}
	if err != nil {
		fmt.Println("FAIL", err)
		os.Exit(1)
	}
	fmt.Println("ready")
	select {}
}

// TestAStoppedProcessKeepsNobodyWaiting: who fetches keeps others from it for as
// long as it takes; but a job that a batch system suspends does not.
func TestAStoppedProcessKeepsNobodyWaiting(t *testing.T) {
	dir := jointDir(t)
	d := joint(t, dir, 0)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CACHE_TEST_CHILD="+dir, "CACHE_TEST_JOINT=claim")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	if s := bufio.NewScanner(out); !s.Scan() || s.Text() != "ready" {
		t.Fatalf("child: %q", s.Text())
	}
	// Aged as if it had held the claim for long, it shows that it is alive.
	claim := filepath.Join(dir, tmpDir, keyFor(0)+claimEnd)
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(claim, long, long); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a sign of life", func() bool {
		fi, err := os.Stat(claim)
		return err != nil || time.Since(fi.ModTime()) < time.Minute
	})
	wait := func(d *Disk, patience time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		release, err := d.Claim(ctx, keyFor(0))
		if err == nil {
			release()
		}
		return err
	}
	if err := wait(d, 100*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beside one that fetches: %v", err)
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// Each of its threads stops at its next return to user space.
	var stopped syscall.WaitStatus
	if _, err := syscall.Wait4(cmd.Process.Pid, &stopped, syscall.WUNTRACED, nil); err != nil || !stopped.Stopped() {
		t.Fatalf("%v, %v", stopped, err)
	}
	if err := os.Chtimes(claim, long, long); err != nil {
		t.Fatal(err)
	}
	if err := wait(d, 5*time.Second); err != nil {
		t.Errorf("beside one that was stopped: %v", err)
	}
	if _, err := os.Stat(claim); err != nil {
		t.Errorf("its claim was taken away: %v", err)
	}
}

// TestClaim: one at a time; who waits can be called off; a dead one's is free.
func TestClaim(t *testing.T) {
	dir := jointDir(t)
	a, b := joint(t, dir, 0), joint(t, dir, 0)
	release, err := a.Claim(context.Background(), keyFor(0))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	waiting := make(chan error)
	go func() { _, err := b.Claim(ctx, keyFor(0)); waiting <- err }()
	if other, err := b.Claim(context.Background(), keyFor(1)); err != nil {
		t.Error(err)
	} else {
		other()
	}
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	go func() {
		r, err := b.Claim(context.Background(), keyFor(0))
		if err == nil {
			r()
		}
		waiting <- err
	}()
	release()
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	os.WriteFile(filepath.Join(dir, tmpDir, keyFor(2)+claimEnd), nil, 0o600) // as a kill leaves it
	joint(t, dir, 0)
	if names, _ := os.ReadDir(filepath.Join(dir, tmpDir)); len(names) > 0 {
		t.Errorf("left in tmp: %v", names)
	}
}

// TestNobodyWaitsForTwo: one who fetches and fails, after a minute when no server
// answers, is waited for once. All who did then fetch for themselves, at once.
func TestNobodyWaitsForTwo(t *testing.T) {
	dir := jointDir(t)
	release, err := joint(t, dir, 0).Claim(t.Context(), keyFor(0))
	if err != nil {
		t.Fatal(err)
	}
	fetching, end := make(chan error), make(chan bool)
	for range 3 {
		d := joint(t, dir, 0)
		go func() {
			release, err := d.Claim(t.Context(), keyFor(0))
			fetching <- err
			<-end
			if err == nil {
				release()
			}
		}()
	}
	time.Sleep(200 * time.Millisecond) // all wait, or will find the place free
	release()
	for i := range 3 {
		select {
		case err := <-fetching:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%d of 3 fetch, the others wait for them", i)
		}
	}
	close(end)
	eventually(t, "all is given back", func() bool { names, _ := os.ReadDir(filepath.Join(dir, tmpDir)); return len(names) == 0 })
}

// TestAStoppedRemovalKeepsNobodyWaiting: a job that is suspended while it makes
// room does not keep others from doing so.
func TestAStoppedRemovalKeepsNobodyWaiting(t *testing.T) {
	dir := jointDir(t)
	d := joint(t, dir, 10_000)
	path := filepath.Join(dir, passFile)
	stopped, err := lockPath(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	defer stopped.Close()
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, long, long); err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		for i := range 30 {
			store(t, d, keyFor(i), contentFor(keyFor(i), 936)).Close()
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("downloads wait for one that was stopped")
		stopped.Close()
		<-done
	}
	eventually(t, "the quota holds", func() bool { return filesIn(t, dir) <= 10_000 })
}

// TestAStoppedProcessHoldsUpNoOther: one that a batch system suspends while it adds up
// has the lock of the sum until it goes on.
func TestAStoppedProcessHoldsUpNoOther(t *testing.T) {
	dir := jointDir(t)
	d := joint(t, dir, 1<<20)
	fill(t, d, 0, 1, 1000-trailerSize)
	f, err := os.OpenFile(filepath.Join(dir, useFile), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := flock(f, syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		fill(t, d, 1, 2, 1000-trailerSize)
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("an object waits for the process that was stopped")
	}
	if err := flock(f, syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	<-done
	fill(t, d, 2, 3, 1000-trailerSize)
	if u, err := d.changeUse(func(u use) use { return u }); err != nil || u.bytes != 3000 {
		t.Errorf("the sum is %d, %v; want 3000", u.bytes, err)
	}
}
