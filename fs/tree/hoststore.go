package tree

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// hostStore keeps images in a directory of the host, in Neurodesk's layout: a
// repository that the reference CVMFS client has mounted. Containers run from
// the host's own directory; nothing of it is served through our mount.
type hostStore struct {
	source, root, dir string
}

func (s hostStore) name() string { return s.source }

func (s hostStore) list(_ context.Context, fn func(container)) error {
	entries, err := os.ReadDir(s.dir)
	for _, e := range entries {
		if e.IsDir() {
			fn(hostContainer{s.source, filepath.Join(s.dir, e.Name())})
		}
	}
	return err
}

func (s hostStore) document(_ context.Context, path string) ([]byte, error) {
	return readText(filepath.Join(s.root, path))
}

// hostContainer is a container's directory on the host.
type hostContainer struct{ source, dir string }

func (c hostContainer) about() about {
	name := filepath.Base(c.dir)
	a := about{dir: name, place: filepath.Join(c.dir, name+".simg"), published: time.Unix(0, 0)}
	a.key = c.source + "/" + name
	for _, f := range []string{"", "commands.txt", name + ".simg"} {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(c.dir, f), &st) == nil {
			a.key += fmt.Sprintf("/%x.%x.%x.%x.%x", st.Dev, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec)
			if f == "commands.txt" {
				a.published = time.Unix(st.Mtim.Sec, 0)
			}
		}
	}
	return a
}

func (c hostContainer) text(_ context.Context, name string) ([]byte, error) {
	return readText(filepath.Join(c.dir, name))
}

// readText returns a file of the host, at most maxText bytes. What is no regular
// file is not there: nobody could wait for the end of a pipe.
func readText(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(err, notExist(path))
	}
	b, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if err == nil && len(b) > maxText {
		err = fmt.Errorf("%s has more than %d bytes", f.Name(), maxText)
	}
	return b, err
}

func (c hostContainer) rootfs(context.Context) (r rootfs, err error) {
	r.host = filepath.Join(c.dir, filepath.Base(c.dir)+".simg")
	var st unix.Stat_t
	if err := unix.Stat(r.host, &st); err != nil {
		return r, &os.PathError{Op: "stat", Path: r.host, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return r, fmt.Errorf("image %s is a file: only unpacked images can be used", r.host)
	}
	sum := sha1.Sum(fmt.Appendf(nil, "%s\x00%x.%x.%x.%x", r.host, st.Dev, st.Ino, st.Mtim.Sec, st.Mtim.Nsec))
	r.id = hex.EncodeToString(sum[:])
	return r, nil
}
