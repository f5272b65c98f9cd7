package cvmfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	stdhash "hash"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zlib"

	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"github.com/neurodesk/neurodeskfs/cvmfs/inflate"
)

// How objects come in. The usual one, a zlib stream whose content's size the
// catalog says, is read whole, hashed on another processor as it comes, and
// inflated at one go, which is more than twice as fast as a stream; nothing is
// written before the hash was seen to be right. Where that would take too much
// memory, or the size is not known, objects are streamed.
//
// A cold read of 256 MiB of text in chunks of 8 MiB (120 MB as stored) from a server on
// the same machine takes the daemon 740 ms of two AMD EPYC cores, and the machine 470 to
// 590 ms in all. By perf, of the daemon's time:
//
//	inflating                    55 %  410 ms
//	READs                        10     75      the replies 6, pread(2) 2, the device 2
//	writing to the cache          8     60      see writeStep in cache
//	SHA-1                         7     55      as the bytes come
//	threads that sleep and wake   7     55
//	reading the socket            4     30
//	files made and renamed        3     20
//	the cache's sums              2     17
//	all else                      4     30
//
// The reader takes 100 ms more, the server 40: two cores cannot do it in less than
// 440 ms. What is between is the first chunk, which one core inflates alone, the last
// ones, which are read when nothing is left to inflate, and threads that wait for each
// other. One core that fetches, hashes and inflates by klauspost's zlib takes 1,200 ms.
//
// Of the heap in that read, 16 to 37 MB in four looks, the pieces that objects are
// read into and inflated into have 12 to 29: one of 8 MiB for each that is inflated
// now and one of half that for each that comes in, both used again and again. The
// next are the launcher that was embedded, 3.0, and the tables of packages, each
// half a megabyte: names of XML entities, words that are no command, protobuf's
// descriptions. The profile itself has 1.2.
const (
	// maxWhole is the content's size in bytes up to which an object is inflated
	// at one go. CVMFS chunks have at most 16 MiB by default.
	maxWhole = 32 << 20
	// maxStored bounds the bytes of all objects that are read whole at a time, as
	// they are stored: with eight chunks of look-ahead 64 MiB is plenty.
	maxStored = 64 << 20
	// minBeside is the size in bytes from which an object is hashed on another
	// processor, and waits until one is free to be inflated. Below it that costs
	// more than it gains.
	minBeside = 128 << 10
	// streamBuffer is what a stream is copied by, bytes.
	streamBuffer = 128 << 10
)

// intake takes objects in. Safe for concurrent use.
type intake struct {
	stored    atomic.Int64  // bytes of objects that are read whole now
	inflating chan struct{} // one for each processor, for large objects
	catalog   chan struct{} // one more, for catalogs, which must not wait behind data
}

// newIntake counts the processors: GOMAXPROCS may be one more (cmd/neurodeskfs).
func newIntake() *intake {
	return &intake{inflating: make(chan struct{}, min(runtime.NumCPU(), runtime.GOMAXPROCS(0))), catalog: make(chan struct{}, 1)}
}

// accept copies the content of body to w and verifies hash and size. What is
// wrong with the body wraps fetch.ErrContent; what is wrong with w does not.
func (in *intake) accept(ctx context.Context, w io.Writer, body io.Reader, o object) error {
	if size := o.expected(); o.compression != catalog.Zlib || size < 0 || size > maxWhole {
		return acceptStream(w, body, o)
	}
	most := o.stored()
	announced := most
	if b, ok := body.(interface{ Size() int64 }); ok && b.Size() >= 0 {
		announced = min(b.Size(), most)
	}
	if in.stored.Add(announced) > maxStored {
		in.stored.Add(-announced)
		return acceptStream(w, body, o)
	}
	defer in.stored.Add(-announced)
	stored := &whole{object: o, most: most, digest: o.hash.Algorithm.New()}
	defer stored.release()
	if err := stored.read(body, announced); err != nil {
		return fmt.Errorf("%w: object %s: %w", fetch.ErrContent, o.hash, err)
	}
	return in.inflate(ctx, w, stored)
}

// inflate writes the content of stored to w, if its hash is right.
func (in *intake) inflate(ctx context.Context, w io.Writer, stored *whole) error {
	o := stored.object
	if o.expected() >= minBeside {
		var own chan struct{} // nil: there is none
		if !o.data() {
			own = in.catalog
		}
		select {
		case in.inflating <- struct{}{}:
			defer func() { <-in.inflating }()
		case own <- struct{}{}:
			defer func() { <-own }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	content := piece(o.expected())
	defer recycle(content)
	_, err := inflate.ZlibNoSum(*content, stored.bytes())
	if got := stored.sum(); got != o.hash {
		return fmt.Errorf("%w: object %s has hash %s", fetch.ErrContent, o.hash, got)
	}
	if o.size < 0 && errors.Is(err, inflate.ErrSize) {
		return acceptStream(w, bytes.NewReader(stored.bytes()), o)
	}
	if err != nil {
		return fmt.Errorf("%w: object %s (%d bytes by its catalog): %w", fetch.ErrContent, o.hash, o.expected(), err)
	}
	_, err = w.Write(*content)
	return err
}

// whole is a stored object that is read at one go. Used by one goroutine, but
// for the one that it starts.
type whole struct {
	object
	most   int64 // bytes that it may have
	buffer *[]byte
	n      int
	digest stdhash.Hash
	parts  chan []byte   // what is to be hashed; nil: nobody hashes beside us
	summed chan struct{} // closed when all parts are
}

func (s *whole) bytes() []byte { return (*s.buffer)[:s.n] }

// read reads body to its end, which is expected after so many bytes.
func (s *whole) read(body io.Reader, expected int64) error {
	const room = 512 // so that the end is seen without growing
	s.buffer = piece(expected + room)
	if expected >= minBeside {
		s.parts, s.summed = make(chan []byte, 8), make(chan struct{})
		go func() {
			defer close(s.summed)
			for p := range s.parts {
				s.digest.Write(p)
			}
		}()
	}
	hashed := 0
	for {
		if s.n == len(*s.buffer) {
			larger := piece(2 * int64(s.n))
			copy(*larger, *s.buffer)
			s.buffer = larger // the old one is left to the collector, for it may be being hashed
		}
		n, err := body.Read((*s.buffer)[s.n:])
		s.n += n
		if int64(s.n) > s.most {
			return errors.New("the stored object is longer than its content can make it")
		}
		if s.n-hashed >= minBeside || err == io.EOF {
			s.hash((*s.buffer)[hashed:s.n])
			hashed = s.n
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *whole) hash(p []byte) {
	if s.parts == nil {
		s.digest.Write(p)
		return
	}
	s.parts <- p
}

// sum waits for the hash of all that was read.
func (s *whole) sum() hash.Hash {
	if s.parts != nil {
		close(s.parts)
		<-s.summed
		s.parts = nil
	}
	return hash.Of(s.object.hash.Algorithm, s.digest)
}

// release gives the buffer back when nobody reads it any more.
func (s *whole) release() {
	s.sum()
	recycle(s.buffer)
}

// inflaters are zlib readers for streams.
var inflaters sync.Pool

// inflater returns one at the beginning of r; putting it back is the caller's.
func inflater(r io.Reader) (io.ReadCloser, error) {
	if z, ok := inflaters.Get().(io.ReadCloser); ok {
		return z, z.(zlib.Resetter).Reset(r, nil)
	}
	return zlib.NewReader(r)
}

// acceptStream is accept for what does not fit in memory or has no known size.
func acceptStream(w io.Writer, body io.Reader, o object) error {
	digest := o.hash.Algorithm.New()
	stored := io.TeeReader(body, digest)
	content := io.Reader(stored)
	switch o.compression {
	case catalog.None:
	case catalog.Zlib:
		z, err := inflater(stored)
		if err != nil {
			return fmt.Errorf("%w: object %s is no zlib stream: %w", fetch.ErrContent, o.hash, err)
		}
		defer inflaters.Put(z)
		content = z
	default:
		return fmt.Errorf("cvmfs: object %s: %w: compression %d", o.hash, catalog.ErrUnsupported, o.compression)
	}
	buffer := piece(streamBuffer)
	defer recycle(buffer)
	in := &source{r: io.LimitReader(content, o.bound()+1)}
	n, err := io.CopyBuffer(w, in, *buffer)
	switch {
	case in.err != nil:
		return fmt.Errorf("%w: object %s: %w", fetch.ErrContent, o.hash, in.err)
	case err != nil:
		return err
	case n > o.bound() || o.size >= 0 && n != o.size:
		return fmt.Errorf("%w: object %s has not the size that its catalog says (%d bytes)", fetch.ErrContent, o.hash, o.bound())
	}
	if _, err := io.CopyBuffer(io.Discard, stored, *buffer); err != nil { // the rest counts for the hash
		return fmt.Errorf("%w: object %s: %w", fetch.ErrContent, o.hash, err)
	}
	if got := hash.Of(o.hash.Algorithm, digest); got != o.hash {
		return fmt.Errorf("%w: object %s has hash %s", fetch.ErrContent, o.hash, got)
	}
	return nil
}

// source remembers the error of the side that is read.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}
