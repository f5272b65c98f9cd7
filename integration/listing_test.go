package integration

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/integration/golden"
)

// listing is a tree as a golden list has it: path -> all other columns.
type listing map[string]entry

// entry holds the columns of golden-revN.tsv in their text form, escapes undone.
type entry struct {
	Type, Mode, UID, GID, Nlink, Size, MTime, Nsec, Rdev, Target, Hash, Xattrs string
}

// goldenListing reads a golden list; links are expanded with env.
func goldenListing(t testing.TB, fqrn string, revision int, env map[string]string) listing {
	t.Helper()
	return readGoldenListing(t, golden.Path(t, goldenSet(t, fqrn), "expected", fqrn, fmt.Sprintf("golden-rev%d.tsv", revision)), env)
}

// readGoldenListing reads the golden list in a file.
func readGoldenListing(t testing.TB, file string, env map[string]string) listing {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	list := listing{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		c := strings.Split(lines.Text(), "\t")
		if strings.HasPrefix(c[0], "#") {
			continue
		}
		if len(c) != 13 {
			t.Fatalf("%s: %d columns in %q", f.Name(), len(c), lines.Text())
		}
		for i := range c {
			c[i] = unescape(c[i])
		}
		e := entry{c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9], c[10], c[11], c[12]}
		if e.Type == "l" {
			e.Target = expandLink(e.Target, env)
			e.Size = strconv.Itoa(len(e.Target))
		}
		list[c[0]] = e
	}
	if err := lines.Err(); err != nil || len(list) < 5 {
		t.Fatalf("%s: %d rows, %v", f.Name(), len(list), err)
	}
	return list
}

var escape = regexp.MustCompile(`\\x[0-9A-Fa-f]{2}`)

func unescape(s string) string {
	return escape.ReplaceAllStringFunc(s, func(e string) string {
		b, _ := hex.DecodeString(e[2:])
		return string(b)
	})
}

var variable = regexp.MustCompile(`\$\(([^):]*)(?::-([^)]*))?\)`)

// expandLink is what the reference client shows of a variant link.
func expandLink(target string, env map[string]string) string {
	return variable.ReplaceAllStringFunc(target, func(v string) string {
		m := variable.FindStringSubmatch(v)
		if value, ok := env[m[1]]; ok {
			return value
		}
		return m[2]
	})
}

// asUser runs f with the rights of another user; uid -1 is our own. Only f's
// thread changes, which then ends.
func asUser(uid int, f func() error) error {
	if uid < 0 {
		return f()
	}
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is of no more use
		failed <- func() error {
			for _, call := range [][4]uintptr{
				{unix.SYS_SETGROUPS, 0, 0, 0},
				{unix.SYS_SETRESGID, uintptr(uid), uintptr(uid), uintptr(uid)},
				{unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)},
			} {
				if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
					return errno
				}
			}
			return f()
		}()
	}()
	return <-failed
}

// readListing lists what lies below dir, as the user uid sees it, through the
// kernel alone.
func readListing(dir string, uid int) (listing, error) {
	list, files := listing{}, []string{}
	err := asUser(uid, func() error {
		return filepath.WalkDir(dir, func(p string, d iofs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			e, err := readEntry(p)
			if err != nil {
				return err
			}
			if p != dir && d.Type() != e.fileType() {
				return fmt.Errorf("%s: type %v in its directory's listing, %v by itself", p, d.Type(), e.fileType())
			}
			list["/"+strings.TrimPrefix(p[len(dir):], "/")] = e
			if e.Type == "f" {
				files = append(files, p)
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return list, addHashes(list, dir, files, uid)
}

func (e entry) fileType() iofs.FileMode {
	return map[string]iofs.FileMode{"d": iofs.ModeDir, "l": iofs.ModeSymlink, "p": iofs.ModeNamedPipe, "s": iofs.ModeSocket,
		"b": iofs.ModeDevice, "c": iofs.ModeDevice | iofs.ModeCharDevice}[e.Type]
}

func readEntry(p string) (e entry, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return e, &os.PathError{Op: "lstat", Path: p, Err: err}
	}
	number := func(n any) string { return fmt.Sprint(n) }
	e = entry{
		Mode: fmt.Sprintf("%04o", st.Mode&0o7777), UID: number(st.Uid), GID: number(st.Gid), Nlink: number(st.Nlink), Size: number(st.Size),
		MTime: number(st.Mtim.Sec), Nsec: number(st.Mtim.Nsec), Rdev: "-", Target: "-", Hash: "-",
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.Type, e.Nlink, e.Size = "d", "-", "-"
	case unix.S_IFREG:
		e.Type = "f"
	case unix.S_IFLNK:
		e.Type = "l"
		if e.Target, err = os.Readlink(p); err != nil {
			return e, err
		}
	case unix.S_IFIFO:
		e.Type = "p"
	case unix.S_IFSOCK:
		e.Type = "s"
	case unix.S_IFBLK, unix.S_IFCHR:
		e.Type = map[bool]string{true: "b", false: "c"}[st.Mode&unix.S_IFMT == unix.S_IFBLK]
		e.Rdev = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	e.Xattrs, err = readXattrs(p)
	return e, err
}

func readXattrs(p string) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(p, buf)
	if err != nil {
		return "", &os.PathError{Op: "llistxattr", Path: p, Err: err}
	}
	names := slices.DeleteFunc(strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 }), isMagic)
	sort.Strings(names)
	for i, name := range names {
		n, err := unix.Lgetxattr(p, name, buf)
		if err != nil {
			return "", &os.PathError{Op: "lgetxattr " + name, Path: p, Err: err}
		}
		names[i] = name + "=" + hex.EncodeToString(buf[:n])
	}
	if len(names) == 0 {
		return "-", nil
	}
	return strings.Join(names, ";"), nil
}

// unreadable stands for the hash of a file that answers EIO.
const unreadable = "EIO"

// addHashes reads all files, two at a time.
func addHashes(list listing, dir string, files []string, uid int) error {
	var mu sync.Mutex // guards list and next
	next := 0
	worker := func() error {
		for {
			mu.Lock()
			i := next
			next++
			mu.Unlock()
			if i >= len(files) {
				return nil
			}
			sum, err := hashFile(files[i])
			if errors.Is(err, syscall.EIO) {
				sum = unreadable
			} else if err != nil {
				return err
			}
			mu.Lock()
			key := "/" + strings.TrimPrefix(files[i][len(dir):], "/")
			e := list[key]
			e.Hash = sum
			list[key] = e
			mu.Unlock()
		}
	}
	errs := make(chan error, 2)
	for range cap(errs) {
		go func() { errs <- asUser(uid, worker) }()
	}
	first := <-errs
	if err := <-errs; first == nil {
		first = err
	}
	return first
}

func hashFile(p string) (string, error) {
	f, err := os.Open(p)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// sameListing reports every difference between a tree and what it should be;
// the first ones of many.
func sameListing(t testing.TB, what string, got, want listing) {
	t.Helper()
	var diffs []string
	for p, w := range want {
		switch g, ok := got[p]; {
		case !ok:
			diffs = append(diffs, fmt.Sprintf("%q is missing", p))
		case g != w:
			diffs = append(diffs, fmt.Sprintf("%q\n\t got  %+v\n\t want %+v", p, g, w))
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			diffs = append(diffs, fmt.Sprintf("%q is not expected", p))
		}
	}
	slices.Sort(diffs)
	const shown = 10
	for i, d := range diffs {
		if i == shown {
			t.Errorf("%s: ... and %d more", what, len(diffs)-shown)
			break
		}
		t.Errorf("%s: %s", what, d)
	}
}

// checkTree compares the tree at dir with want, as our user sees it, and if we
// are root as an ordinary user, too.
func checkTree(t testing.TB, dir string, want listing) {
	t.Helper()
	const nobody = 65534
	for _, uid := range []int{-1, nobody} {
		if uid >= 0 && syscall.Geteuid() != 0 {
			continue
		}
		what := fmt.Sprintf("as user %d", max(uid, syscall.Geteuid()))
		got, err := readListing(dir, uid)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		sameListing(t, what, got, want)
	}
}
