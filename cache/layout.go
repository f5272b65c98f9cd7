package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	layoutNumber = 1
	layoutText   = "1"

	versionFile = "VERSION"
	lockFile    = "lock"
	indexFile   = "index.db"
	objectsDir  = "objects"
	tmpDir      = "tmp"
	tmpPattern  = "new-*.part"

	lockWait = time.Second
)

// objectPath is where key's object lies below dir.
func objectPath(dir, key string) string {
	return filepath.Join(dir, objectsDir, key[:2], key[2:])
}

// checkLayout reads VERSION. It returns false for a directory that is empty or
// missing, or whose VERSION was lost, and ErrLayout for one to keep out of.
func checkLayout(dir string) (made bool, err error) {
	b, err := os.ReadFile(filepath.Join(dir, versionFile))
	if err == nil {
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err == nil && n > layoutNumber {
			return false, fmt.Errorf("cache: %s has layout %d, and this version knows %d: upgrade neurodeskfs, "+
				"or choose another cache directory: %w", dir, n, layoutNumber, ErrLayout)
		}
		if err == nil && n == layoutNumber {
			return true, nil
		}
		// Empty or garbled, as a power loss leaves it: like a lost one.
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("cache: %w", err)
	}
	names, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("cache: %w", err)
	}
	for _, e := range names {
		switch n := e.Name(); n {
		case versionFile, versionFile + "~", lockFile, indexFile, objectsDir, tmpDir, metaDir, useFile, bootFile, passFile, "lost+found":
		default:
			if e.Type().IsRegular() && strings.HasSuffix(n, ".log") {
				continue // a daemon may have begun its log here
			}
			// Somebody's own directory, given by mistake: its tmp/ is not ours to empty.
			return false, fmt.Errorf("cache: %s is no cache but holds %s: choose an empty or a new directory: %w",
				dir, strconv.Quote(n), ErrLayout)
		}
	}
	return false, nil
}

// makeLayout makes what is missing in dir.
func makeLayout(dir string, made bool, fileMode os.FileMode) error {
	for _, sub := range []string{objectsDir, tmpDir} {
		if err := makeDir(filepath.Join(dir, sub), fileMode); err != nil {
			return fmt.Errorf("cache: %w", err)
		}
	}
	if made {
		return nil
	}
	tmp := filepath.Join(dir, versionFile+"~")
	defer os.Remove(tmp)
	if err := os.WriteFile(tmp, []byte(layoutText+"\n"), fileMode); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	err := os.Rename(tmp, filepath.Join(dir, versionFile))
	if isGone(err) {
		_, err = os.Stat(filepath.Join(dir, versionFile)) // a process of joint use was faster
	}
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return nil
}

// dirMode adds search permission where mode has read permission.
func dirMode(mode os.FileMode) os.FileMode { return mode | mode>>2&0o111 }

// makeDir makes one directory; one that is there is fine. The mode is set
// again because the umask cuts it.
func makeDir(path string, fileMode os.FileMode) error {
	err := os.Mkdir(path, dirMode(fileMode))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil && fileMode&0o077 != 0 {
		err = os.Chmod(path, dirMode(fileMode))
	}
	return err
}

// emptyTmp removes what writers of a former process left.
func emptyTmp(dir string) {
	for _, pattern := range []string{tmpPattern, "*" + claimEnd} {
		old, _ := filepath.Glob(filepath.Join(globQuote(dir), tmpDir, pattern))
		for _, p := range old {
			os.Remove(p)
		}
	}
}

func globQuote(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// lockDir takes the directory for this process, waiting up to a second, since
// a look by Info or the end of a former process takes a moment. The error
// wraps ErrLocked when another process has it. Where the file system has no
// locks the file is returned with noLocks.
func lockDir(dir string, mode os.FileMode) (f *os.File, noLocks error, err error) {
	f, err = os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, mode)
	if err != nil {
		return nil, nil, fmt.Errorf("cache: %w", err)
	}
	err = awaitLock(f, syscall.LOCK_EX)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		who := holder(f)
		f.Close()
		return nil, nil, fmt.Errorf("cache: %s is in use by %s: unmount there, or give this mount a cache directory "+
			"of its own: %w", dir, who, ErrLocked)
	case err != nil:
		noLocks = err
	}
	if err := f.Truncate(0); err == nil {
		// The pid is for people; a full disk is no reason to fail.
		f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, noLocks, nil
}

// awaitLock takes a lock, waiting up to a second.
func awaitLock(f *os.File, how int) error {
	for deadline := time.Now().Add(lockWait); ; time.Sleep(20 * time.Millisecond) {
		err := flock(f, how|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			return err
		}
	}
}

// unlockDir gives the directory back and takes the pid out of the lock file.
func unlockDir(f *os.File) {
	f.Truncate(0)
	f.Close()
}

func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if err != syscall.EINTR {
			return err
		}
	}
}

// holder names the process in a lock file.
func holder(f *os.File) string {
	if pid := holderPID(f); pid > 0 {
		return "process " + strconv.Itoa(pid)
	}
	return "another process, or by jobs (neurodeskfs run)"
}

func holderPID(f *os.File) int {
	var b [16]byte
	n, _ := f.ReadAt(b[:], 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return 0
	}
	return pid
}
