package session

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// fakeCrew runs readers that take work from a channel, in a synctest bubble.
type fakeCrew struct {
	*crew
	work    chan func()
	done    chan struct{}
	wg      sync.WaitGroup
	started int
	mu      sync.Mutex
}

func newFakeCrew(wanted int) *fakeCrew {
	f := &fakeCrew{work: make(chan func()), done: make(chan struct{})}
	f.crew = newCrew(wanted, f.run)
	f.run(wanted)
	f.wg.Go(func() { f.watch(f.done) })
	return f
}

func (f *fakeCrew) run(n int) int {
	f.mu.Lock()
	f.started += n
	f.mu.Unlock()
	for range n {
		f.join()
		f.wg.Go(func() {
			for {
				select {
				case <-f.done:
					return
				case job := <-f.work:
					f.enter()
					job()
					if !f.leave() {
						return
					}
				}
			}
		})
	}
	return n
}

func (f *fakeCrew) stop() {
	close(f.done)
	f.wg.Wait()
}

func (f *fakeCrew) total() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.started
}

func TestCrewStartsReadersWhenAllAreBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCrew(2)
		hold := make(chan struct{})
		f.work <- func() { <-hold }
		synctest.Wait()
		time.Sleep(time.Hour) // fake time
		if n := f.total(); n != 2 {
			t.Fatalf("%d readers started though one was free", n)
		}
		if f.watching.Load() {
			t.Error("the watcher ticks though one reader is free")
		}
		begin := time.Now()
		f.work <- func() { <-hold }
		f.work <- func() { <-hold } // is taken by the third reader
		if d := time.Since(begin); d != stallAfter {
			t.Errorf("a request waited %v", d)
		}
		for range 500 {
			f.work <- func() { <-hold }
		}
		if d := time.Since(begin); d > 100*time.Millisecond {
			t.Errorf("500 hanging requests were taken in %v", d)
		}
		if n := f.total(); n > 503+maxStep {
			t.Errorf("%d readers for 503 requests", n)
		}
		close(hold)
		synctest.Wait()
		for n := f.waiting.Load(); n > 2; n-- {
			if !f.dismiss() {
				t.Fatal("a surplus reader was not dismissed")
			}
		}
		if f.dismiss() || f.surplus() {
			t.Error("a wanted reader was dismissed")
		}
		time.Sleep(time.Second)
		if f.watching.Load() {
			t.Error("the watcher ticks on an idle mount")
		}
		f.stop()
	})
}

func TestCrewLeavesProgressAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCrew(2)
		// Both readers are always busy, but something returns in each period.
		for range 1000 {
			f.work <- func() { time.Sleep(stallAfter / 2) }
		}
		if n := f.total(); n > 4 {
			t.Errorf("%d readers started", n)
		}
		f.stop()
	})
}

func TestCrewNeverStarves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCrew(3)
		var jobs sync.WaitGroup
		for i := range 3000 {
			jobs.Add(1)
			f.work <- func() {
				defer jobs.Done()
				time.Sleep(time.Duration(i%7) * stallAfter)
			}
		}
		jobs.Wait()
		synctest.Wait()
		if n := f.waiting.Load(); n < 3 {
			t.Errorf("%d readers wait, 3 are wanted", n)
		}
		f.stop()
	})
}

// TestASlotIsFreeBeforeAnotherReaderStarts: there are as many slots in the journal as
// there may be readers, and what is written behind its end ends the process.
func TestASlotIsFreeBeforeAnotherReaderStarts(t *testing.T) {
	s := New(nil, fuse.NewDefaultRawFileSystem(), Options{})
	r := &reader{slot: s.slots.get()}
	s.readers[r] = struct{}{}
	s.slots.mu.Lock()
	retired := make(chan struct{})
	go func() {
		defer close(retired)
		s.retire(r)
	}()
	for range 100 { // it waits for the pool meanwhile
		time.Sleep(100 * time.Microsecond)
		s.mu.Lock()
		if len(s.readers) == 0 {
			t.Error("another reader could start")
		}
		s.mu.Unlock()
	}
	s.slots.mu.Unlock()
	<-retired
	if len(s.readers) != 0 {
		t.Error("it has not retired")
	}
	s.slots.close()
}
