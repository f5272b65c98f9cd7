package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

const largeRepo = "large.example.org"

// largeImage makes a SIF of 60 MB out of busybox, a small tool, and data that
// cannot be compressed, in few large files and many small ones.
func largeImage(t *testing.T) []byte {
	t.Helper()
	root := filepath.Join(shortDir(t), "root")
	write := func(name string, content []byte, mode os.FileMode) {
		at := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(at), 0o755)
		if err == nil {
			err = os.WriteFile(at, content, mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err) // make deps installs it
	}
	write("bin/busybox", busybox, 0o755)
	for _, link := range []string{"sh", "cat", "ls", "test", "[", "dirname"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", link)); err != nil {
			t.Fatal(err)
		}
	}
	random := rand.NewChaCha8([32]byte{7})
	for i := range 56 {
		b := make([]byte, 1<<20)
		random.Read(b)
		write(fmt.Sprintf("opt/data/large%02d", i), b, 0o644)
	}
	for i := range 2000 {
		b := make([]byte, 500)
		random.Read(b)
		write(fmt.Sprintf("opt/many/%02d/small%04d", i%20, i), b, 0o644)
	}
	write("usr/local/bin/tool", []byte("#!/bin/sh\ncat /opt/many/07/small0007 >/dev/null && echo \"the tool ran: $1\"\n"), 0o755)
	write("etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644)
	sif := filepath.Join(shortDir(t), "large.sif")
	r := run(t, exec.Command("apptainer", "--quiet", "build", sif, root))
	if r.Status != 0 {
		t.Fatal(r.Stderr)
	}
	b, err := os.ReadFile(sif)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestLaunchSmallToolOfLargeImage: one small tool of a chunked SIF of 60 MB
// costs a part of its bytes, and the first file of the image can be read after
// three round trips: head and end, the other tables, the file.
func TestLaunchSmallToolOfLargeImage(t *testing.T) {
	needApptainer(t)
	sif := largeImage(t)
	if len(sif) < 58_000_000 || len(sif) > 66_000_000 {
		t.Fatalf("the image has %d bytes", len(sif))
	}
	for _, mib := range []int64{1, 2, 4} {
		t.Run(fmt.Sprintf("chunks of %d MiB", mib), func(t *testing.T) {
			s := newStratum(t)
			tree := cvmfstest.NewTree()
			tree.File("all/tool:1.0--h_0", sif, 0o755)
			tree.Nested("all")
			_, _, src := s.publish(cvmfstest.Options{FQRN: largeRepo, ChunkSize: mib << 20}, tree)
			src.Layout = "flat"
			m := mount(t, setup{Sources: []source{src}})
			m.Indexed()
			if st, err := os.Stat(m.Path("apps/tool/default/image.sif")); err != nil || st.Size() != int64(len(sif)) { // the catalogs are at hand now
				t.Fatal(err)
			}
			s.Reset()
			slow := s.Inject(cvmfstest.All, 0, cvmfstest.Delay(100*time.Millisecond))
			f, err := os.Open(m.Path("apps/tool/default/rootfs/opt/data/large30"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if n, err := f.ReadAt(make([]byte, 4096), 0); n != 4096 || err != nil {
				t.Fatalf("%d bytes, %v", n, err)
			}
			slow.Remove()
			log := s.Requests()
			if waves, rounds := cvmfstest.Waves(log), cvmfstest.Rounds(log); rounds > 3 || waves > rounds || rounds < 2 {
				t.Errorf("the first file took %d waves, %d rounds: %+v", waves, rounds, log)
			}
			r := m.Run(m.Path("apps/tool/default/bin/tool"), "yes")
			if r.Status != 0 || r.Stdout != "the tool ran: yes\n" {
				t.Errorf("the tool: %+v", r)
			}
			n := s.Stats().Bytes
			t.Logf("%d of %d bytes, %.0f %%, in %d requests", n, len(sif), 100*float64(n)/float64(len(sif)), s.Stats().Requests)
			if n == 0 || n >= int64(len(sif))*35/100 {
				t.Errorf("%d of %d bytes were fetched", n, len(sif))
			}
		})
	}
}
