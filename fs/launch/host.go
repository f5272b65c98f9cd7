package launch

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// Host is what Plan may know of the machine: facts, and functions for the few that are cheaper asked for when needed.
// Tests fill it from tables. The functions follow os.* in their errors and must not change anything.
type Host struct {
	Env       []string // NAME=VALUE
	Cwd       string   // physical path of the current directory; "" when it cannot be told
	CwdErr    error    // why Cwd is ""
	UID, GID  int
	Groups    []int    // supplementary groups
	Arch      string   // GOARCH of the machine; "" = not known
	Nested    bool     // inside a container already
	MountInfo string   // text of /proc/self/mountinfo
	Launcher  string   // directory of the launcher: M/.neurodeskfs
	Ignored   []string // signals that the caller ignores and the tool shall too, as trap(1) names them: HUP, INT

	TopLevel func() ([]os.DirEntry, error) // entries of /, nothing below is looked at
	Lstat    func(name string) (os.FileInfo, error)
	Stat     func(name string) (os.FileInfo, error)
	Readlink func(name string) (string, error)
	ReadDir  func(name string, n int) ([]os.DirEntry, error)     // up to n entries of a directory
	ReadAt   func(name string, off int64, n int) ([]byte, error) // up to n bytes of a file; short at its end
	Search   func(name string) bool                              // may this process enter that directory

	// ImageEnv gives what the image's environment scripts set, PATH among it, for one content hash ("": nothing is kept)
	// and one HOME; probe, which is asked for where nothing is kept, runs them. RuntimeVersion tells a runtime's version, ""
	// where it is not known. Both may be nil.
	ImageEnv       func(hash, home string, probe func() (*Exec, error)) ([]Var, error)
	RuntimeVersion func(file string) string
}

// maxMountInfo bounds the bytes read of the list of mounts.
const maxMountInfo = 16 << 20

// RealHost gathers the facts of this process. It looks at nothing below the top level of the file system.
func RealHost(launcher string) Host {
	h := Host{
		Env: os.Environ(), UID: os.Getuid(), GID: os.Getgid(), Arch: runtime.GOARCH, Launcher: launcher,
		Lstat: os.Lstat, Stat: os.Stat, Readlink: os.Readlink,
		TopLevel: func() ([]os.DirEntry, error) { return os.ReadDir("/") },
		ReadDir:  readDir, ReadAt: readAt,
		Search: func(name string) bool { return syscall.Access(name, 1) == nil },
	}
	// os.Getwd would answer with $PWD, which may lead through a link that does not exist inside.
	h.Cwd, h.CwdErr = syscall.Getwd()
	if h.CwdErr == nil && !path.IsAbs(h.Cwd) {
		h.Cwd, h.CwdErr = "", syscall.ENOENT
	}
	if text, err := readAt("/proc/self/mountinfo", 0, maxMountInfo); err == nil {
		h.MountInfo = string(text)
	}
	if _, err := os.Lstat("/.singularity.d"); err == nil {
		h.Nested = true
	}
	h.Groups, _ = os.Getgroups()        // without them only the names of the groups are lacking
	if signal.Ignored(syscall.SIGHUP) { // nohup
		h.Ignored = append(h.Ignored, "HUP")
	}
	if signal.Ignored(syscall.SIGINT) { // a script's `tool &`
		h.Ignored = append(h.Ignored, "INT")
	}
	keep := newKeeper(&h)
	h.ImageEnv, h.RuntimeVersion = keep.imageEnv, keep.runtimeVersion
	return h
}

// openFile opens a file for reading. A blocking descriptor, without os.Open's attempts to have it polled.
func openFile(name string, flags int) (int, error) {
	for {
		fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC|flags, 0)
		if err == nil {
			return fd, nil
		}
		if !errors.Is(err, syscall.EINTR) {
			return -1, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

func readDir(name string, n int) ([]os.DirEntry, error) {
	fd, err := openFile(name, syscall.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	d := os.NewFile(uintptr(fd), name)
	defer d.Close()
	entries, err := d.ReadDir(n)
	if err == io.EOF {
		err = nil
	}
	return entries, err
}

func readAt(name string, off int64, n int) ([]byte, error) {
	fd, err := openFile(name, 0)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	return readOpen(fd, name, off, n)
}

// readOpen reads up to n bytes of an open file. Most are much shorter.
func readOpen(fd int, name string, off int64, n int) ([]byte, error) {
	const usual = 2 << 10
	buf, got := make([]byte, min(n, usual)), 0
	for {
		k, err := syscall.Pread(fd, buf[got:], off+int64(got))
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return buf[:got], &fs.PathError{Op: "read", Path: name, Err: err}
		case k == 0:
			return buf[:got], nil
		}
		if got += k; got == n {
			return buf, nil
		}
		if got == len(buf) {
			buf = append(buf, make([]byte, min(n-got, got))...)
		}
	}
}

// getenv gives the last value of a name, as a shell would export it.
func (h *Host) getenv(name string) string {
	for i := len(h.Env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(h.Env[i], name); ok && len(v) > 0 && v[0] == '=' {
			return v[1:]
		}
	}
	return ""
}

// bindLists are the variables whose binds hold. In a container the runtime around it has written its own into *_BIND: their
// sources are of the host outside.
func (h *Host) bindLists() []string {
	if !h.Nested {
		return bindVariables
	}
	return slices.DeleteFunc(slices.Clone(bindVariables), func(name string) bool { return strings.HasSuffix(name, "_BIND") })
}

// throughLink is a clean absolute path with the first link on it replaced by what that leads to; "" where there is none.
func (h *Host) throughLink(name string) string {
	for end := 1; end < len(name); {
		if n := strings.IndexByte(name[end:], '/'); n < 0 {
			end = len(name)
		} else {
			end += n
		}
		if target, err := h.Readlink(name[:end]); err == nil {
			if !path.IsAbs(target) {
				target = path.Join(path.Dir(name[:end]), target)
			}
			return path.Join(target, name[end:])
		}
		end++
	}
	return ""
}

// lookPath finds a program in PATH, or, for a caller without one (`env -i`), where systems have programs. Relative entries
// of PATH and the mount's own directories are passed over: neither may decide which runtime starts.
func (h *Host) lookPath(name, mountpoint string) string {
	if strings.Contains(name, "/") {
		return name
	}
	dirs := h.getenv("PATH")
	if dirs == "" {
		dirs = defaultPath
	}
	for _, dir := range strings.Split(dirs, ":") {
		if !path.IsAbs(dir) || within(dir, mountpoint) {
			continue
		}
		file := path.Join(dir, name)
		if fi, err := h.Stat(file); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return file
		}
	}
	return ""
}

// within tells whether a path is root or below it. Both are clean and absolute; an empty root holds nothing.
func within(name, root string) bool {
	if root == "" {
		return false
	}
	if root == "/" || name == root {
		return true
	}
	return len(name) > len(root) && name[len(root)] == '/' && name[:len(root)] == root
}
