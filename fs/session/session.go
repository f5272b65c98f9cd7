// Package session owns the /dev/fuse descriptor: it mounts, answers INIT, and
// runs the loop that reads requests and writes replies. It knows nothing of
// what is served; that is the RawFileSystem it is given.
//
//	f, err := session.Mount(ctx, session.MountOptions{Mountpoint: dir})
//	s := session.New(f, raw, session.Options{Logger: log})
//	err = s.Serve()                        // until the mount is gone
//	...
//	lazy, err := session.Unmount(ctx, dir) // from anywhere
//
// # Readers
//
// A few readers (one for each processor, from 2 to 4) sit in a blocking read(2) on the one
// descriptor. Each handles what it reads inline, through go-fuse's
// ProtocolServer, and answers with one write(2). A handler that takes long, as
// a download does, keeps its reader and its slot; when every reader has been in
// a handler for a millisecond, the watcher starts more (crew.go). So no number
// of slow requests stops the others, up to 16,384 at once. The reader that comes back
// and finds enough others reading gives its slot back.
//
// Readers are ordinary goroutines, not locked to threads: a handler that waits
// on a channel then holds no thread, and locking made no request faster.
//
// # Slots
//
// A slot (slot.go) is the memory that one reader reads into and answers from:
// resident and locked pages, since a process that is killed while the kernel
// copies to or from a page that is not there makes the request fail with EIO.
//
// # Lock order
//
// Session.mu before slotPool.mu. Neither is held during a system call on the
// descriptor or while a handler runs.
package session

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// MaxRead is the size in bytes of the largest READ and READDIR reply, and of
// the max_read mount option. Linux before 4.20 grants 128 KiB of it. Nobody
// but root gets larger READs than that, see RaiseReadAhead, which has the figures.
const MaxRead = 256 << 10

// maxWrite is what INIT grants for WRITE. The mount is read-only, so it is the
// least that the kernel takes; it bounds the read buffer from below.
const maxWrite = 4096

// maxBackground is how many requests that nobody waits for (read-ahead) the
// kernel keeps in flight; its default of 12 would serialise cold reads.
const maxBackground = 128

// maxReaders bounds the readers, and so the requests in flight.
const maxReaders = 16384

// Options are the choices of New. The zero value is ready to use.
type Options struct {
	// Logger receives panics of handlers (error), refused memory locks and
	// unexpected device errors. Default: discard.
	Logger *slog.Logger
	// Readers is how many readers wait for requests. Default 0: as many as there
	// are processors, or GOMAXPROCS if that is less, clamped to 2..4; more made
	// things slower.
	Readers int
	// Handover is what an earlier process left of the connection, on whose
	// descriptor INIT was answered already. Nil: Serve answers it.
	Handover *Handover
}

// Handover is the part of a connection that outlives the process that serves it.
type Handover struct {
	// Init is what was agreed with the kernel.
	Init Init
	// Journal and Board are files in memory: the requests under way, and the
	// counts. The session maps them; closing them is the caller's business.
	Journal, Board *os.File
	// Replay makes Serve run again what the journal has, as kernels before 6.9
	// do not send it again.
	Replay bool
	// Suspects were under way when a worker crashed: they are run one at a time.
	// Condemned crashed three: they get EIO.
	Suspects, Condemned []uint64
}

// Session serves one FUSE connection. Its methods may be called from any
// goroutine at any time; Serve once.
type Session struct {
	file   *os.File // keeps fd open; closing it is the caller's business
	fd     int
	raw    fuse.RawFileSystem
	server *fuse.ProtocolServer
	log    *slog.Logger
	slots  *slotPool
	crew   *crew
	counts *counters
	taken  *Handover // what an earlier process has begun; nil: we negotiate
	board  *board    // nil: nobody shares it
	// suspicion is set before the first reader starts; nil: no worker crashed.
	suspicion *suspicion

	notices chan notice

	ready chan struct{} // closed when INIT is answered
	done  chan struct{} // closed when the kernel has let go of the mount
	once  sync.Once     // closes done
	wg    sync.WaitGroup

	mu      sync.Mutex // guards what follows
	init    Init
	readers map[*reader]struct{}
	dying   func(pid uint32) bool // threadDying; tests have their own
	closed  bool                  // no reader may start any more
	full    bool                  // maxReaders was reported
	err     error
}

// reader is one goroutine of the device loop.
type reader struct {
	slot *slot
	// unique is the request in its handler, 0 for none. Shutdown reads it to
	// cancel the handler.
	unique atomic.Uint64
	pid    atomic.Uint32 // the thread that waits for it
}

// New prepares a session on a descriptor that Mount returned. The caller keeps
// f open until Serve has returned and then closes it. Of raw's methods, Init is
// never called; OnUnmount is, when Serve ends.
func New(f *os.File, raw fuse.RawFileSystem, o Options) *Session {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Readers <= 0 {
		o.Readers = max(2, min(4, runtime.NumCPU(), runtime.GOMAXPROCS(0)))
	}
	s := &Session{
		file:    f,
		fd:      -1,
		counts:  new(counters),
		taken:   o.Handover,
		raw:     raw,
		log:     o.Logger,
		slots:   newSlotPool(o.Logger),
		notices: make(chan notice),
		ready:   make(chan struct{}),
		done:    make(chan struct{}),
		readers: make(map[*reader]struct{}),
		dying:   threadDying,
	}
	if f != nil {
		s.fd = int(f.Fd())
	}
	s.crew = newCrew(o.Readers, s.startReaders)
	s.server = fuse.NewProtocolServer(raw, s.protocolOptions())
	return s
}

// Serve answers INIT and then requests until the mount is gone, and returns
// nil. When it returns, every handler has returned (those that were still
// waiting have had their cancel channel closed), no goroutine is left and the
// slots are unmapped. It waits for a handler that ignores its cancel channel.
// An error means that the descriptor could not be served: it is not a FUSE
// device, it was negotiated before, or reading it failed repeatedly.
//
// It takes no context: only an unmount ends a FUSE connection without failing
// whoever uses it. See Unmount.
func (s *Session) Serve() error {
	defer s.slots.close()
	if err := s.begin(); err != nil {
		s.finish()
		if errors.Is(err, errGone) {
			s.raw.OnUnmount()
			return nil
		}
		return err
	}
	s.resume()
	s.startReaders(s.crew.wanted)
	watcher := make(chan struct{})
	go func() {
		defer close(watcher)
		s.crew.watch(s.done)
	}()
	s.wg.Go(s.showLife)
	s.wg.Go(s.sendNotices)
	<-s.done
	<-watcher
	s.cancelHandlers()
	s.raw.OnUnmount()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Ready is closed once INIT has been answered, from when on requests are
// served. It stays open if the mount goes away before.
func (s *Session) Ready() <-chan struct{} { return s.ready }

// startReaders starts up to n readers and says how many it started: none after
// the unmount or at the hard bound.
func (s *Session) startReaders(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0
	}
	if room := maxReaders - len(s.readers); n > room {
		n = room
		if !s.full {
			s.full = true
			s.log.Error("fuse: too many requests wait for their handlers; new ones are not read until one returns",
				"in_flight", len(s.readers))
		}
	}
	for range n {
		s.startReader(s.slots.get(), 0)
	}
	if s.board != nil && len(s.readers) == maxReaders {
		s.board.full.Store(1)
	}
	return n
}

// startReader starts a reader whose slot has a request of so many bytes already,
// 0: none. mu is held.
func (s *Session) startReader(sl *slot, request int) {
	r := &reader{slot: sl}
	s.readers[r] = struct{}{}
	s.crew.join()
	s.wg.Go(func() {
		if request == 0 || s.serve(r, request) {
			s.loop(r)
		}
		s.retire(r)
	})
}

// retire gives the slot back before another reader may start: the journal has room
// for maxReaders.
func (s *Session) retire(r *reader) {
	s.slots.put(r.slot)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.readers, r)
	if s.board != nil {
		s.board.full.Store(0)
	}
}

// finish notes that the connection is over: no reader starts any more.
func (s *Session) finish() {
	s.once.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		close(s.done)
	})
}

// fail keeps the first error for Serve.
func (s *Session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

// cancelHandlers closes the cancel channels of all handlers and waits for all
// readers. It repeats, since a reader may have taken a request off the device
// just before and not yet have handed it to go-fuse.
func (s *Session) cancelHandlers() {
	gone := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(gone)
	}()
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		s.mu.Lock()
		var uniques []uint64
		for r := range s.readers {
			if u := r.unique.Load(); u != 0 {
				uniques = append(uniques, u)
			}
		}
		s.mu.Unlock()
		for _, u := range uniques {
			s.interrupt(u)
		}
		select {
		case <-gone:
			return
		case <-time.After(pause):
		}
	}
}

// onPanic answers a request whose handler panicked.
func (s *Session) onPanic(v any) fuse.Status {
	s.log.Error("fuse: handler panicked; the request gets EIO",
		"panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	return fuse.EIO
}
