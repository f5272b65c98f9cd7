package main

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zlib"
	"golang.org/x/sys/unix"
)

// workerWord is the first argument of a process that measures: one of its own,
// so that it has the account's rights and none of our memory.
const workerWord = "worker"

// passes are the measurements over a folder or a file that take as long as one
// says: each call does one pass and returns how many operations, or bytes.
var passes = map[string]func(path string) (func() (int, error), error){
	"stat":       statPass,
	"open":       openPass,
	"readdir":    readdirPass,
	"sequential": sequentialPass,
	"random":     randomPass,
}

// worker does what args say, prints one figure and returns the exit status.
//
//	stat|open|readdir|sequential|random PATH DURATION   operations or bytes a second
//	read FILE                                           seconds
//	fetch LIST                                          seconds
//	image find|cat IMAGE PASSES                         passes a second, by the last
func worker(args []string) int {
	figure, err := func() (float64, error) {
		switch {
		case len(args) == 3 && passes[args[0]] != nil:
			long, err := time.ParseDuration(args[2])
			if err != nil {
				return 0, err
			}
			return rate(args[0], args[1], long)
		case len(args) == 2 && args[0] == "read":
			return coldRead(args[1])
		case len(args) == 2 && args[0] == "fetch":
			return fetchAll(args[1])
		case len(args) == 4 && args[0] == "image":
			return readImage(context.Background(), args[1], args[2], args[3])
		}
		return 0, fmt.Errorf("worker: %q is no task", args)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(strconv.FormatFloat(figure, 'g', -1, 64))
	return 0
}

// rate makes passes for at least so long, after one that does not count.
func rate(what, path string, long time.Duration) (float64, error) {
	pass, err := passes[what](path)
	if err != nil {
		return 0, err
	}
	if _, err := pass(); err != nil {
		return 0, err
	}
	started, sum := time.Now(), 0
	for {
		n, err := pass()
		if err != nil {
			return 0, err
		}
		sum += n
		if took := time.Since(started); took >= long {
			return float64(sum) / took.Seconds(), nil
		}
	}
}

// folder is an open directory, and the regular files below it by names relative
// to it: how deep it lies itself is no business of the measurement, and in a
// container it is the root.
type folder struct {
	fd    int
	files []string
}

func openFolder(dir string) (f folder, err error) {
	err = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			p, err = filepath.Rel(dir, p)
			f.files = append(f.files, p)
		}
		return err
	})
	if err == nil && len(f.files) == 0 {
		err = fmt.Errorf("there is no file in %s", dir)
	}
	if err == nil {
		f.fd, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) // as long as the process lives
	}
	return f, err
}

// statPass, as the passes after it, uses the system calls themselves: what Go adds
// would make all file systems look alike.
func statPass(dir string) (func() (int, error), error) {
	f, err := openFolder(dir)
	var st unix.Stat_t
	return func() (int, error) {
		for _, name := range f.files {
			if err := unix.Fstatat(f.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return 0, &fs.PathError{Op: "lstat", Path: name, Err: err}
			}
		}
		return len(f.files), nil
	}, err
}

func openPass(dir string) (func() (int, error), error) {
	f, err := openFolder(dir)
	buffer := make([]byte, 64<<10)
	return func() (int, error) {
		for _, name := range f.files {
			fd, err := unix.Openat(f.fd, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return 0, &fs.PathError{Op: "open", Path: name, Err: err}
			}
			_, err = unix.Read(fd, buffer)
			if err := errors.Join(err, unix.Close(fd)); err != nil {
				return 0, err
			}
		}
		return len(f.files), nil
	}, err
}

// readdirPass lists one folder, again and again.
func readdirPass(dir string) (func() (int, error), error) {
	buffer := make([]byte, 32<<10)
	return func() (int, error) {
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, &fs.PathError{Op: "open", Path: dir, Err: err}
		}
		defer unix.Close(fd)
		for {
			n, err := unix.Getdents(fd, buffer)
			if err != nil {
				return 0, err
			}
			if n == 0 {
				return 1, nil
			}
		}
	}, nil
}

func sequentialPass(name string) (func() (int, error), error) {
	f, err := os.Open(name)
	buffer := make([]byte, 1<<20)
	return func() (int, error) {
		sum := 0
		for {
			n, err := f.ReadAt(buffer, int64(sum))
			sum += n
			if errors.Is(err, io.EOF) {
				return sum, nil
			}
			if err != nil {
				return 0, err
			}
		}
	}, err
}

// randomPass reads 4 KiB at each of 1,000 places, which are the same each time
// that somebody measures.
func randomPass(name string) (func() (int, error), error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	if _, err := (io.Copy(io.Discard, io.NewSectionReader(f, 0, size))); err != nil {
		return nil, err
	}
	places, buffer := rand.New(rand.NewPCG(1, 2)), make([]byte, 4<<10)
	return func() (int, error) {
		for range 1000 {
			if _, err := f.ReadAt(buffer, places.Int64N(size/4096)*4096); err != nil {
				return 0, err
			}
		}
		return 1000, nil
	}, nil
}

// coldRead reads a file once from its start to its end.
func coldRead(name string) (float64, error) {
	started := time.Now()
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buffer := make([]byte, 1<<20)
	for {
		_, err := f.Read(buffer)
		if errors.Is(err, io.EOF) {
			return time.Since(started).Seconds(), nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// fetchAll fetches the URLs in the file list, one after another over one
// connection, as a client does that asks for what it needs when it needs it:
// objects are verified and inflated.
func fetchAll(list string) (float64, error) {
	text, err := os.ReadFile(list)
	if err != nil {
		return 0, err
	}
	var body bytes.Buffer
	started := time.Now()
	for url := range strings.Lines(string(text)) {
		if err := fetchOne(strings.TrimSpace(url), &body); err != nil {
			return 0, err
		}
	}
	return time.Since(started).Seconds(), nil
}

func fetchOne(url string, body *bytes.Buffer) error {
	answer, err := http.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body.Reset()
	if _, err := body.ReadFrom(answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, answer.Status)
	}
	_, name, _ := strings.Cut(url, "/data/")
	want := strings.TrimRight(strings.ReplaceAll(name, "/", ""), "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
	if sum := sha1.Sum(body.Bytes()); hex.EncodeToString(sum[:]) != want {
		return fmt.Errorf("%s: wrong content", url)
	}
	z, err := zlib.NewReader(body)
	if err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	if _, err := io.Copy(io.Discard, z); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	return z.Close()
}
