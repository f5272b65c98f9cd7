package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cmd/config"
)

// mayReach reports what the servant may not read of the files that a configuration
// names, or that it may not pass to the cache.
func (s *servant) mayReach(cfg *config.Config) error {
	if err := os.MkdirAll(cfg.Cache.Dir, 0o700); err != nil {
		return err
	}
	if err := letThrough(cfg.Cache.Dir); err != nil {
		return err
	}
	return s.as(func() error {
		if err := tryOpen(cfg.Cache.Dir, unix.O_PATH); err != nil {
			return err
		}
		for _, path := range namedFiles(cfg) {
			if err := tryOpen(path, unix.O_RDONLY); err != nil {
				return err
			}
		}
		return nil
	})
}

// namedFiles are the files and directories of a configuration that a worker reads.
func namedFiles(cfg *config.Config) []string {
	named := []string{cfg.VerifySIF.Keyring, cfg.Traces}
	named = append(named, cfg.Cache.Shared...)
	for _, s := range cfg.Sources {
		named = append(named, s.Blacklist, s.CABundle)
		for _, key := range s.PublicKeys {
			inside, _ := filepath.Glob(filepath.Join(key, "*.pub")) // of a directory
			named = append(append(named, key), inside...)
		}
		if s.Kind == config.KindDir {
			named = append(named, s.Path)
		}
	}
	files := named[:0]
	for _, path := range named {
		if strings.HasPrefix(path, "/") { // not unset, and no URL
			files = append(files, path)
		}
	}
	return files
}

// as calls do with the servant's rights to files: credentials(7), a thread's
// file-system user has none of root's capabilities for files.
func (s *servant) as(do func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with this goroutine
		result <- func() error {
			if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 { // this thread's alone
				return fmt.Errorf("setgroups: %w", errno)
			}
			if err := unix.Setfsgid(s.gid); err != nil {
				return fmt.Errorf("setfsgid: %w", err)
			}
			if err := unix.Setfsuid(s.uid); err != nil {
				return fmt.Errorf("setfsuid: %w", err)
			}
			return do()
		}()
	}()
	return <-result
}

// tryOpen reports that a file may not be opened; one that is missing is no
// question of rights.
func tryOpen(path string, how int) error {
	fd, err := unix.Open(path, how|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch err {
	case nil:
		return unix.Close(fd)
	case unix.EACCES, unix.EPERM:
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	return nil
}
