package cvmfs

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/sha1"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// zipped is an object of n bytes that deflates a little, and its stored form.
func zipped(t testing.TB, n int) (content, stored []byte, o object) {
	t.Helper()
	content = make([]byte, n)
	r := rand.New(rand.NewPCG(uint64(n), 1))
	for i := range content {
		content[i] = byte(r.IntN(48))
	}
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	if _, err := z.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(b.Bytes())
	h, err := hash.FromDigest(hash.SHA1, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return content, b.Bytes(), object{hash: h, compression: catalog.Zlib, size: int64(n)}
}

// sized is a body that says how long it is.
type sized struct {
	io.Reader
	size int64
}

func (s sized) Size() int64 { return s.size }

// TestAccept: whatever the size of an object, and whether or not the server says
// it, what comes in is its content or an error that blames the server.
func TestAccept(t *testing.T) {
	ctx := t.Context()
	for _, n := range []int{0, 1, 5000, minBeside, 2*minBeside + 1} {
		content, stored, o := zipped(t, n)
		flipped := bytes.Clone(stored)
		flipped[len(flipped)/2] ^= 4
		other := o
		other.size++
		for _, c := range []struct {
			name string
			body func() io.Reader
			o    object
			good bool
		}{
			{"told its size", func() io.Reader { return sized{bytes.NewReader(stored), int64(len(stored))} }, o, true},
			{"not told", func() io.Reader { return bytes.NewReader(stored) }, o, true},
			{"told that nobody knows", func() io.Reader { return sized{bytes.NewReader(stored), -1} }, o, true},
			{"told too little", func() io.Reader { return sized{bytes.NewReader(stored), int64(len(stored) / 3)} }, o, true},
			{"told too much", func() io.Reader { return sized{bytes.NewReader(stored), 1 << 40} }, o, true},
			{"in small pieces", func() io.Reader { return sized{iotest.HalfReader(bytes.NewReader(stored)), int64(len(stored))} }, o, true},
			{"with its end", func() io.Reader { return iotest.DataErrReader(bytes.NewReader(stored)) }, o, true},
			{"cut", func() io.Reader { return bytes.NewReader(stored[:len(stored)-1]) }, o, false},
			{"flipped", func() io.Reader { return bytes.NewReader(flipped) }, o, false},
			{"longer", func() io.Reader { return io.MultiReader(bytes.NewReader(stored), bytes.NewReader(make([]byte, 1))) }, o, false},
			{"much longer", func() io.Reader {
				return io.MultiReader(bytes.NewReader(stored), bytes.NewReader(make([]byte, 2*n+1<<20)))
			}, o, false},
			{"of another size", func() io.Reader { return bytes.NewReader(stored) }, other, false},
			{"broken off", func() io.Reader {
				return io.MultiReader(bytes.NewReader(stored[:len(stored)/2]), iotest.ErrReader(io.ErrUnexpectedEOF))
			}, o, false},
		} {
			for _, in := range []*intake{newIntake(), full()} {
				var out bytes.Buffer
				before := in.stored.Load()
				err := in.accept(ctx, &out, c.body(), c.o)
				if c.good && (err != nil || !bytes.Equal(out.Bytes(), content)) {
					t.Errorf("%d bytes, %s: %d bytes, %v", n, c.name, out.Len(), err)
				}
				if !c.good && !errors.Is(err, fetch.ErrContent) {
					t.Errorf("%d bytes, %s: %v", n, c.name, err)
				}
				if !c.good && before == 0 && out.Len() > 0 {
					t.Errorf("%d bytes, %s: %d bytes were written before they were verified", n, c.name, out.Len())
				}
				if in.stored.Load() != before || len(in.inflating) > 0 {
					t.Errorf("%d bytes, %s: %d bytes, %d places stay taken", n, c.name, in.stored.Load(), len(in.inflating))
				}
			}
		}
	}
}

// full is an intake whose memory is used up, so that it streams.
func full() *intake {
	in := newIntake()
	in.stored.Store(maxStored)
	return in
}

// TestAcceptWaits: a large object is inflated when a processor is free, unless
// its reader leaves before.
func TestAcceptWaits(t *testing.T) {
	_, stored, o := zipped(t, 2*minBeside)
	in := newIntake()
	for range cap(in.inflating) {
		in.inflating <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := in.accept(ctx, io.Discard, bytes.NewReader(stored), o); !errors.Is(err, context.Canceled) {
		t.Errorf("no processor was free: %v", err)
	}
	o.suffix = hash.Catalog
	if err := in.accept(t.Context(), io.Discard, bytes.NewReader(stored), o); err != nil || len(in.catalog) > 0 {
		t.Errorf("a catalog waited for data: %v, %d places stay taken", err, len(in.catalog))
	}
	in.catalog <- struct{}{}
	if err := in.accept(ctx, io.Discard, bytes.NewReader(stored), o); !errors.Is(err, context.Canceled) {
		t.Errorf("two catalogs at once: %v", err)
	}
	_, stored, o = zipped(t, 100)
	if err := in.accept(ctx, io.Discard, bytes.NewReader(stored), o); err != nil {
		t.Errorf("a small object waited: %v", err)
	}
}

// TestPieces: a buffer is as long as asked for, at most a quarter longer in all,
// and comes back for its own size only.
func TestPieces(t *testing.T) {
	last, lastIndex := int64(0), -1
	for n := int64(1); n < 80<<20; n += n/7 + 1 {
		index, size := pieceSize(n)
		if size < n || n > 4<<10 && size > n+n/4 || size < last || index < lastIndex || (index == lastIndex) != (size == last) {
			t.Errorf("%d bytes: size %d, index %d", n, size, index)
		}
		if again, same := pieceSize(size); again != index || same != size {
			t.Errorf("a buffer of %d bytes would come back among those of %d", size, same)
		}
		last, lastIndex = size, index
		p := piece(n)
		if int64(len(*p)) != n || int64(cap(*p)) != size {
			t.Errorf("%d bytes: %d of %d", n, len(*p), cap(*p))
		}
		recycle(p)
	}
	recycle(nil)
}

// TestShelf: what is put there is found, whoever looks for it, as long as its size is wanted.
func TestShelf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shelf
		a, b := make([]byte, minLarge), make([]byte, 2*minLarge)
		s.put(5, &a)
		s.put(6, &b)
		if s.get(7) != nil {
			t.Error("a buffer of another size")
		}
		for range 3 { // each time later than the last
			found := make(chan *[]byte)
			go func() { found <- s.get(5) }()
			if <-found != &a {
				t.Error("another goroutine does not find what is wanted")
			}
			if s.get(5) != nil {
				t.Error("it was there twice")
			}
			s.put(5, &a)
			time.Sleep(shelfLife)
			synctest.Wait()
		}
		if s.get(6) != nil {
			t.Error("what nobody wants lies there for ever")
		}
		time.Sleep(2 * shelfLife)
		synctest.Wait()
		if s.get(5) != nil || s.sweep != nil {
			t.Error("the shelf is not empty when nobody wants anything any more")
		}
	})
}

// TestAcceptReuses: in the long run an object of usual size costs no buffer.
func TestAcceptReuses(t *testing.T) {
	const size = 1 << 20
	_, stored, o := zipped(t, size)
	in := newIntake()
	var before, after runtime.MemStats
	take := func() {
		if err := in.accept(t.Context(), io.Discard, sized{bytes.NewReader(stored), int64(len(stored))}, o); err != nil {
			t.Fatal(err)
		}
	}
	take()
	runtime.ReadMemStats(&before)
	const rounds = 50
	for range rounds {
		take()
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / rounds; each > size { // without a pool it were 1.7 times that; with -race one drops a part
		t.Errorf("%d bytes allocated for each object of %d", each, size)
	}
}
