package cache

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// Everything at once on a small quota: whoever gets an object gets its content.
func TestEverythingAtOnce(t *testing.T) {
	d := openDisk(t, t.TempDir(), Options{Quota: 60_000, FlushEvery: time.Millisecond})
	var users, keepers sync.WaitGroup
	stop := make(chan struct{})
	for g := range 6 {
		users.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range 250 {
				key := keyFor(r.IntN(80))
				want := childContent(key)
				if !cached(t, d, key) {
					store(t, d, key, want).Close()
				}
				o, err := d.Open(key)
				if errors.Is(err, ErrNotCached) {
					continue // evicted in between
				}
				if err != nil {
					t.Error(err)
					return
				}
				if err := sumContent(o, o.Size(), sumOf(want)); err != nil {
					t.Errorf("%s: %v", key, err)
				}
				o.Close()
			}
		})
	}
	for _, keep := range upkeep(t, d) {
		keepers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := keep(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	users.Wait()
	close(stop)
	keepers.Wait()
	if s := d.Stats(); s.Open != 0 {
		t.Errorf("%+v", s)
	}
	checkAccounts(t, d)
}

func sumOf(b []byte) sums {
	var s sums
	s.add(b)
	return s
}

// upkeep is what may go on beside readers and writers, each again and again.
func upkeep(t *testing.T, d *Disk) []func(i int) error {
	ctx := context.Background()
	return []func(i int) error{
		func(int) error { _, err := d.Verify(ctx, nil); return err },
		func(int) error { _, err := d.Prune(ctx, 30_000); return err },
		func(i int) error { return errors.Join(d.Pin(keyFor(i%80), "test"), d.Unpin(keyFor(i%80), "test")) },
		func(i int) error {
			if err := d.Remove(keyFor(i % 80)); !errors.Is(err, ErrNotCached) {
				return err
			}
			d.Stats()
			d.List()
			return nil
		},
		func(i int) error {
			k := keyFor(i % 10)
			if err := d.PutMeta("b", k, []byte(k)); err != nil {
				return err
			}
			v, err := d.GetMeta("b", k)
			if string(v) != k {
				t.Errorf("value %q of %q", v, k)
			}
			return err
		},
	}
}

// TestALookAtAllRecordsLetsReadersIn: a million take a third of a second, and each
// start and each removal looks at them.
func TestALookAtAllRecordsLetsReadersIn(t *testing.T) {
	d := openDisk(t, t.TempDir(), Options{})
	d.mu.Lock()
	for i := range 3 * 4096 {
		d.objs[keyFor(i)] = rec{size: trailerSize}
	}
	d.mu.Unlock()
	reader := make(chan struct{})
	n, letIn := 0, false
	for range d.records() {
		switch n++; n {
		case 1:
			go func() {
				d.Stats()
				close(reader)
			}()
		case 4000, 8000: // after a millisecond of waiting it is the reader's turn (sync.Mutex)
			time.Sleep(20 * time.Millisecond)
		case 3 * 4096:
			select {
			case <-reader:
				letIn = true
			default:
			}
		}
	}
	if !letIn {
		t.Error("a reader waits for the end")
	}
	d.mu.Lock()
	clear(d.objs)
	d.mu.Unlock()
}
