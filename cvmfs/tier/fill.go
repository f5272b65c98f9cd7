package tier

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// Everybody may read what is in a tier; who may reach it is decided by the
// directory's own mode, which is left as it is.
const (
	fileMode = 0o644
	dirMode  = 0o755
)

// abandoned is the age at which a file in tmp/ is nobody's any more.
const abandoned = 24 * time.Hour

// Make makes the directory a tier, if it is none yet, and returns it for
// filling. ErrLayout: it holds something else.
func Make(dir string, log *slog.Logger) (*Tier, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("tier: %w", err)
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, fmt.Errorf("tier: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(dir, layoutFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("tier: %w", err)
		}
		if len(entries) > 0 {
			return nil, fmt.Errorf("tier: %s is no shared tier but holds %q: choose an empty or a new directory: %w", dir, entries[0].Name(), ErrLayout)
		}
	case err != nil:
		return nil, fmt.Errorf("tier: %w", err)
	case string(text) != layoutText:
		return nil, fmt.Errorf("tier: %s has a layout that this version does not know: upgrade neurodeskfs, or choose another directory: %w", dir, ErrLayout)
	}
	for _, sub := range []string{objectsDir, headsDir, tmpDir} {
		if err := makeDir(filepath.Join(dir, sub)); err != nil {
			return nil, fmt.Errorf("tier: %w", err)
		}
	}
	t := New(dir, log)
	t.sweep()
	if text == nil {
		return t, t.put(filepath.Join(dir, layoutFile), []byte(layoutText))
	}
	return t, nil
}

// makeDir makes one directory that all may read, whatever the umask.
func makeDir(path string) error {
	err := os.Mkdir(path, dirMode)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = os.Chmod(path, dirMode)
	}
	return err
}

// sweep removes what was left in tmp/ by who was killed.
func (t *Tier) sweep() {
	entries, _ := os.ReadDir(filepath.Join(t.dir, tmpDir))
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > abandoned {
			os.Remove(filepath.Join(t.dir, tmpDir, e.Name()))
		}
	}
}

// Writer takes one object, which the caller verifies before Commit. Used by
// one goroutine.
type Writer struct {
	f    *os.File
	path string
}

// Create begins the object name. Nothing is there under it before Commit, which
// takes the place of what is.
func (t *Tier) Create(name string) (*Writer, error) { return t.create(t.path(name)) }

func (t *Tier) create(path string) (*Writer, error) {
	f, err := os.CreateTemp(filepath.Join(t.dir, tmpDir), "new-*")
	if err != nil {
		return nil, fmt.Errorf("tier: %w", err)
	}
	return &Writer{f, path}, nil
}

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) { return w.f.Write(p) }

// Commit gives the object its name. The Writer is done, whatever it returns.
func (w *Writer) Commit() error {
	defer w.Abort()
	err := w.f.Chmod(fileMode)
	// A network file system tells of a full disk only here.
	if err := errors.Join(err, w.f.Close()); err != nil {
		return fmt.Errorf("tier: %w", err)
	}
	err = os.Rename(w.f.Name(), w.path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeDir(filepath.Dir(w.path)); err != nil {
			return fmt.Errorf("tier: %w", err)
		}
		err = os.Rename(w.f.Name(), w.path)
	}
	if err != nil {
		return fmt.Errorf("tier: %w", err)
	}
	return nil
}

// Abort drops what was written; after Commit it does nothing.
func (w *Writer) Abort() {
	w.f.Close()
	os.Remove(w.f.Name())
}

// SetHead keeps what a repository's newest revision was verified by.
func (t *Tier) SetHead(fqrn string, b []byte) error {
	return t.put(filepath.Join(t.dir, headsDir, fqrn), b)
}

// put writes a small file, or nothing.
func (t *Tier) put(path string, b []byte) error {
	w, err := t.create(path)
	if err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		w.Abort()
		return fmt.Errorf("tier: %w", err)
	}
	return w.Commit()
}
