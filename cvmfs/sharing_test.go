package cvmfs

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cache"
)

// TestRepositoriesShareWhatIsKeptOpen: what is open cannot be evicted, and takes a
// descriptor: eight repositories must not keep the whole cache open between them, nor
// more files than the process may have.
func TestRepositoriesShareWhatIsKeptOpen(t *testing.T) {
	const quota, size = 160_000, 1000
	disk, err := cache.Open(t.TempDir(), cache.Options{Quota: quota})
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		sharing int
		quota   int64
		files   uint64 // that the process may have
		open    int
	}{
		{1, quota, limit.Cur, quota / openShare / size},
		{2, quota, limit.Cur, quota / openShare / 2 / size},
		{1, 0, 256, 256 / 4},
		{4, 0, 256, 256 / 4 / 4},
	} {
		t.Run(fmt.Sprintf("%d of %d bytes and %d files", c.sharing, c.quota, c.files), func(t *testing.T) {
			few := limit
			few.Cur = c.files
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
				t.Fatal(err)
			}
			defer unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
			s := newObjects(Options{Store: disk, Quota: c.quota, Sharing: c.sharing})
			defer s.close()
			for i := range 100 {
				key := fmt.Sprintf("%040d", i)
				w, err := disk.Create(key, size)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := w.Write(make([]byte, size)); err != nil {
					t.Fatal(err)
				}
				obj, err := w.Commit()
				if err != nil {
					t.Fatal(err)
				}
				s.hold(key, obj).release()
			}
			if n := s.open.Len(); n != c.open {
				t.Errorf("%d objects are kept open, want %d", n, c.open)
			}
		})
	}
}
