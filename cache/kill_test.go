package cache

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

const childQuota = 300_000

// childContent follows from the key, its size too.
func childContent(key string) []byte { return contentFor(key, 1000+100*int(key[0]-'0')) }

// runChild writes, reads, pins and evicts in dir until it is killed.
func runChild(dir string) {
	d, err := Open(dir, Options{Quota: childQuota, FlushEvery: 3 * time.Millisecond})
	if err != nil {
		fmt.Println("FAIL", err)
		os.Exit(1)
	}
	fmt.Println("ready")
	for g := range 3 {
		go func() {
			for {
				key := keyFor(rand.IntN(400))
				o, err := d.Open(key)
				if err != nil {
					content := childContent(key)
					w, err := d.Create(key, -1)
					if err == nil {
						w.Write(content[:500])
						w.Write(content[500:])
						o, err = w.Commit()
					}
					if err != nil {
						fmt.Println("FAIL", err)
						os.Exit(1)
					}
				}
				o.Close()
				if g == 0 && rand.IntN(50) == 0 {
					d.Pin(keyFor(rand.IntN(20)), "child")
					d.PutMeta("child", key, []byte(key))
				}
			}
		}()
	}
	select {}
}

func TestKilledAtAnyInstant(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	rounds := 40
	if testing.Short() {
		rounds = 8
	}
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CACHE_TEST_CHILD="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewScanner(out)
		if !in.Scan() || in.Text() != "ready" {
			t.Errorf("child: %q", in.Text())
		}
		// The instant is what is random here; nothing depends on its length.
		<-time.After(time.Duration(rand.IntN(40_000)) * time.Microsecond)
		cmd.Process.Kill()
		for in.Scan() {
			t.Errorf("child: %s", in.Text())
		}
		cmd.Wait()
		var log records
		d := openDisk(t, dir, Options{Logger: log.logger()}) // no quota: nothing goes while we look
		checkAccounts(t, d)
		if names, _ := os.ReadDir(filepath.Join(dir, tmpDir)); len(names) > 0 {
			t.Errorf("left in tmp: %v", names)
		}
		// Beyond the quota by what its three writers may have had in use and under way.
		if s := d.Stats(); s.UsedBytes > childQuota+6*8000 {
			t.Errorf("%d bytes used of %d", s.UsedBytes, childQuota)
		}
		for _, e := range d.List() {
			wantContent(t, d, e.Key, childContent(e.Key))
		}
		d.ForEachMeta("child", func(k string, v []byte) error {
			if k != string(v) {
				t.Errorf("value %q is %q", k, v)
			}
			return nil
		})
		d.Close()
		checkDir(t, dir)
		if log.count("level=INFO") != log.count("level=") {
			t.Errorf("round %d: %s", round, log.String())
		}
		if t.Failed() {
			return
		}
	}
}
