package tier

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

const name = "ab/cdef"

// filled is a tier that has one object, and what it logs.
func filled(t *testing.T, content string) (*Tier, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	made, err := Make(filepath.Join(t.TempDir(), "tier"), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	put(t, made, content)
	return made, &log
}

func put(t *testing.T, made *Tier, content string) {
	t.Helper()
	w, err := made.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
}

func read(made *Tier) (string, error) {
	o, err := made.Open(context.Background(), name)
	if err != nil {
		return "", err
	}
	defer o.Close()
	b, err := io.ReadAll(o)
	o.Served()
	return string(b), err
}

func TestObjectsComeBack(t *testing.T) {
	long := strings.Repeat("0123456789", readPiece/4)
	made, _ := filled(t, long)
	if got, err := read(made); err != nil || got != long {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	put(t, made, "other")
	if got, err := read(made); err != nil || got != "other" {
		t.Errorf("%q, %v", got, err)
	}
	if s := made.Stats(); s.Hits != 2 || s.Bytes != int64(len(long)+5) || s.Error != "" {
		t.Errorf("%+v", s)
	}
	if _, err := made.Open(t.Context(), "ab/absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := made.SetHead("a.b", []byte("head")); err != nil {
		t.Error(err)
	}
	if b, err := made.Head(t.Context(), "a.b"); err != nil || string(b) != "head" {
		t.Errorf("%q, %v", b, err)
	}
	if left, _ := os.ReadDir(filepath.Join(made.dir, tmpDir)); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestManyFillAtOnce(t *testing.T) {
	made, _ := filled(t, "same")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			other, err := Make(made.dir, made.log)
			if err != nil {
				t.Error(err)
				return
			}
			for range 20 {
				w, err := other.Create(name)
				if err == nil {
					io.WriteString(w, "same")
					err = w.Commit()
				}
				if got, readErr := read(other); err != nil || readErr != nil || got != "same" {
					t.Errorf("%v, %q, %v", err, got, readErr)
				}
			}
		})
	}
	all.Wait()
}

func TestWhatIsNoTierIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(t.TempDir(), "newer")
	if err := errors.Join(os.Mkdir(newer, 0o700), os.WriteFile(filepath.Join(newer, layoutFile), []byte("2\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{dir, newer} {
		before, _ := os.ReadDir(dir)
		if _, err := Make(dir, nil); !errors.Is(err, ErrLayout) {
			t.Errorf("%s: %v", dir, err)
		}
		if after, _ := os.ReadDir(dir); len(after) != len(before) {
			t.Errorf("%s: %v", dir, after)
		}
	}
	if s := New("/nonexistent", slog.New(slog.DiscardHandler)).Stats(); !strings.Contains(s.Error, "--to /nonexistent") {
		t.Errorf("%+v", s)
	}
}

// stuck is a file of a file system that hangs until release is closed.
type stuck struct {
	file
	release chan struct{}
	closed  chan struct{}
}

func (s stuck) Read(p []byte) (int, error) {
	<-s.release
	return s.file.Read(p)
}

func (s stuck) Close() error {
	close(s.closed)
	return s.file.Close()
}

// TestATierThatHangsIsLeftAlone while it does, whether it hangs in open or in
// read, and is used again afterwards; its files are closed.
func TestATierThatHangsIsLeftAlone(t *testing.T) {
	for _, where := range []string{"open", "read"} {
		t.Run(where, func(t *testing.T) {
			made, log := filled(t, "content")
			made.patience = time.Millisecond
			release, closed := make(chan struct{}), make(chan struct{})
			made.open = func(path string) (file, error) {
				f, err := openFile(path)
				if where == "open" {
					<-release
					return stuck{f, release, closed}, err
				}
				return stuck{f, release, closed}, err
			}
			if _, err := read(made); !errors.Is(err, ErrAside) {
				t.Error(err)
			}
			opened := false
			made.open = func(path string) (file, error) { opened = true; return openFile(path) }
			if _, err := read(made); !errors.Is(err, ErrAside) || opened {
				t.Errorf("%v, opened %v", err, opened)
			}
			if s := made.Stats(); s.Error == "" || strings.Count(log.String(), "level=WARN") != 1 {
				t.Errorf("%+v, %s", s, log)
			}
			close(release)
			if where == "open" {
				<-closed
			}
			made.patience = defaultPatience
			for made.hanging.Load() > 0 {
				runtime.Gosched()
			}
			if got, err := read(made); err != nil || got != "content" || !opened {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// TestWhoGoesAwayDoesNotCloseATier: an operation that nobody waits for any more
// says nothing about the tier; only when it takes too long it does.
func TestWhoGoesAwayDoesNotCloseATier(t *testing.T) {
	made, _ := filled(t, "content")
	release, closed := make(chan struct{}), make(chan struct{})
	made.open = func(path string) (file, error) {
		f, err := openFile(path)
		return stuck{f, release, closed}, err
	}
	ctx, cancel := context.WithCancel(t.Context())
	o, err := made.Open(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(o); !errors.Is(err, context.Canceled) {
		t.Errorf("a read that was given up: %v", err)
	}
	made.open = openFile
	if got, err := read(made); err != nil || got != "content" {
		t.Errorf("another: %q, %v", got, err)
	}
	made.patience = time.Millisecond
	made.open = func(path string) (file, error) {
		f, err := openFile(path)
		return stuck{f, release, closed}, err
	}
	ctx, cancel = context.WithCancel(t.Context())
	if o, err = made.Open(ctx, name); err != nil {
		t.Fatal(err)
	}
	cancel()
	io.ReadAll(o)
	for made.hanging.Load() == 0 {
		runtime.Gosched()
	}
	close(release)
	for made.hanging.Load() > 0 {
		runtime.Gosched()
	}
}
