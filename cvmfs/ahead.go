package cvmfs

import (
	"context"
	"sync"

	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
)

// Look-ahead: who reads a chunked file from front to back gets the next chunks
// before asking. It begins when half a chunk was read in one go, with one chunk,
// and doubles with each chunk that is entered, whether that is here or has to be
// waited for: the processors that would inflate the ones behind it are idle then.
const (
	maxWindow      = 8        // chunks ahead
	maxWindowBytes = 64 << 20 // and bytes
	maxStreams     = 4        // readers of one file that are told apart
	maxRun         = 1 << 20  // bytes in one go that are enough, whatever the size of a chunk
	maxSlack       = 1 << 20  // bytes: requests of one reader that overtake each other
)

// stream is one reader who goes through a file.
type stream struct {
	begin, end int64           // what was read in one go
	window     int             // chunks
	chunk      int             // the one that end lies in
	asked      int             // all chunks before it were asked for
	used       int64           // when, by streams.clock
	life       context.Context // ends when another reader takes its place
	leave      context.CancelFunc
}

// streams are the readers of one file. Safe for concurrent use.
type streams struct {
	mu    sync.Mutex // guards all below
	list  []*stream
	clock int64
}

// note takes account of a read of n bytes at off, in chunk, and returns the chunks
// to fetch now, and what ends when their reader has gone elsewhere.
func (s *streams) note(f *file, chunk int, off, n int64) (from, to int, life context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock++
	size := f.chunks[chunk].Size
	at := s.find(off, min(size/4, maxSlack))
	if at == nil {
		s.add(&stream{begin: off, end: off + n, chunk: chunk, asked: chunk + 1, used: s.clock})
		return 0, 0, nil
	}
	at.used = s.clock
	at.end = max(at.end, off+n)
	if chunk > at.chunk {
		at.chunk = chunk
		if at.window > 0 {
			at.window = min(2*at.window, maxWindow)
		}
	}
	if at.window == 0 && at.end-at.begin >= min(size/2, maxRun) && at.end >= f.chunks[chunk].Offset+size/2 {
		at.window = 1
	}
	from = max(at.asked, chunk+1)
	for to = from; to < len(f.chunks) && to <= chunk+at.window; to++ {
		if f.chunks[to].Offset+f.chunks[to].Size-at.end > maxWindowBytes {
			break
		}
	}
	if to <= from {
		return 0, 0, nil
	}
	at.asked = to
	return from, to, at.life
}

// find returns the reader who may have come to off, give or take slack bytes. mu is held.
func (s *streams) find(off, slack int64) *stream {
	for _, at := range s.list {
		if off >= at.begin && off >= at.end-slack && off <= at.end+slack {
			return at
		}
	}
	return nil
}

// add puts a new reader in place of the one that was not heard of for longest,
// whose chunks nobody wants any more. mu is held.
func (s *streams) add(n *stream) {
	n.life, n.leave = context.WithCancel(context.Background())
	if len(s.list) < maxStreams {
		s.list = append(s.list, n)
		return
	}
	oldest := 0
	for i, at := range s.list {
		if at.used < s.list[oldest].used {
			oldest = i
		}
	}
	s.list[oldest].leave()
	s.list[oldest] = n
}

// lookAhead fetches, in the background, what the reader who has just come to
// off of f will read next.
func (r *Repository) lookAhead(ctx context.Context, f *file, chunk int, off, n int64) {
	if len(f.chunks) < 2 || f.url != "" || fetch.IsPrefetch(ctx) || r.opts.Serial {
		return
	}
	from, to, life := f.readers.note(f, chunk, off, n)
	for i := from; i < to; i++ {
		r.Background(func(ctx context.Context) {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			defer context.AfterFunc(life, cancel)()
			if h, err := r.objects.get(ctx, f.object(i)); err == nil {
				h.release()
			}
		})
	}
}
