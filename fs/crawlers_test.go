package fs

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestCrawlersByName(t *testing.T) {
	looks := 0
	now := time.Unix(1000, 0)
	c := NewCrawlers([]string{"updatedb", "tracker-miner-fs-3"})
	c.now = func() time.Time { return now }
	c.read = func(tid uint32) []string {
		looks++
		switch tid {
		case 1:
			return []string{"updatedb"}
		case 2:
			return []string{"pool-3", "tracker-miner-f"}
		case 3 + 1024:
			return nil // gone
		}
		return []string{"updatedb2"}
	}
	for range 3 {
		for tid, want := range map[uint32]bool{0: false, 1: true, 2: true, 3: false, 3 + 1024: false} {
			if got := c.Is(tid); got != want {
				t.Errorf("thread %d: %v", tid, got)
			}
		}
	}
	if looks < 4 || looks > 8 { // 3 and 1027 share a place
		t.Errorf("%d looks", looks)
	}
	looks, now = 0, now.Add(time.Second)
	if !c.Is(1) || looks != 1 {
		t.Errorf("a second later: %d looks", looks)
	}
	if NewCrawlers(nil).Is(1) || (*Crawlers)(nil).Is(1) {
		t.Error("nobody is kept out, and yet")
	}
}

func TestCommsOfThreads(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "updatedb.plocate")
	if err := os.Symlink(sleep, name); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(name, "60")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		c.Process.Kill()
		c.Wait()
	}()
	if got := commsOf(uint32(c.Process.Pid)); !slices.Equal(got, []string{"updatedb.plocat"}) {
		t.Errorf("%q", got)
	}
	if !NewCrawlers(DefaultCrawlers).Is(uint32(c.Process.Pid)) {
		t.Error("updatedb.plocate is no crawler")
	}
	self, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	// A thread other than the first has its process's name besides its own.
	found := make(chan []string)
	go func() { found <- commsOf(uint32(unix.Gettid())) }()
	for _, n := range <-found {
		if n+"\n" != string(self) {
			t.Errorf("%q, want %q", n, self)
		}
	}
	if got := commsOf(1 << 30); got != nil {
		t.Errorf("%q", got)
	}
}
