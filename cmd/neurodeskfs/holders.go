package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/session"
)

// Who holds a mount is found in /proc alone, since its daemon may hang: open
// files by the mount id in fdinfo, working directory and root by that of an
// O_PATH descriptor (opening one asks no file system), mapped files by the
// device in maps, mounts by the device in mountinfo. /proc/PID/cmdline is not
// read: it can wait for a page of the mount, comm cannot.

// holderPatience bounds the search: a process that is stuck in the mount can
// hold the lock that its maps are read under.
const holderPatience = 5 * time.Second

// holder is a process that keeps a mount in use.
type holder struct {
	PID     int
	Command string
	Holds   []string // "working directory /apps", "open file /bin/bet" ...
}

// heldMount is what must be known of a mount before it is taken away.
type heldMount struct {
	dir    string
	device string          // MAJOR:MINOR, as in mountinfo
	ids    map[string]bool // its mount ids in all mount namespaces that can be seen
	below  []string        // what is mounted below it, here
}

// mountLine is a line of mountinfo; paths are as the kernel escapes them.
type mountLine struct {
	id, parent, device, dir, kind, options string
}

func readMountLines(pid string) ([]mountLine, error) {
	b, err := os.ReadFile("/proc/" + pid + "/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMountLines(b), nil
}

func parseMountLines(b []byte) []mountLine {
	var list []mountLine
	for line := range strings.Lines(string(b)) {
		head, tail, found := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		left, right := strings.Fields(head), strings.Fields(tail)
		if !found || len(left) < 6 || len(right) < 2 {
			continue
		}
		m := mountLine{id: left[0], parent: left[1], device: left[2], dir: left[4], kind: right[0]}
		if len(right) > 2 {
			m.options = right[2]
		}
		list = append(list, m)
	}
	return list
}

// lookAtMount notes a mount of ours; false if there is none. It does not touch
// the mount.
func lookAtMount(path string) (heldMount, bool) {
	mounts, err := session.FindMounts()
	if err != nil {
		return heldMount{}, false
	}
	const maxLinks = 40
	for range maxLinks {
		parent, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return heldMount{}, false
		}
		dir := filepath.Join(parent, filepath.Base(path))
		for _, m := range slices.Backward(mounts) {
			if m.Mountpoint == dir {
				h := heldMount{dir: dir, device: fmt.Sprintf("%d:%d", m.Connection>>20, m.Connection&0xfffff), ids: make(map[string]bool)}
				h.noteNamespaces()
				return h, true
			}
		}
		target, err := os.Readlink(dir)
		if err != nil {
			return heldMount{}, false
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(parent, target)
		}
		path = target
	}
	return heldMount{}, false
}

// noteNamespaces collects the mount's ids and what is mounted below it here.
func (h *heldMount) noteNamespaces() {
	for _, lines := range namespaces() {
		for _, m := range lines {
			if m.device == h.device {
				h.ids[m.id] = true
			}
		}
	}
	own, _ := readMountLines("self")
	for _, m := range own {
		if h.ids[m.parent] {
			h.below = append(h.below, fmt.Sprintf("%s (%s)", m.dir, m.kind))
		}
	}
}

// namespaces returns the mounts of every mount namespace that can be seen, by
// the lowest pid in it; this process's own under 0.
func namespaces() map[int][]mountLine {
	all := make(map[int][]mountLine)
	own, _ := os.Readlink("/proc/self/ns/mnt")
	seen := map[string]bool{own: true}
	all[0], _ = readMountLines("self")
	for _, pid := range processIDs() {
		space, lines := namespaceOf(pid, seen)
		if len(lines) > 0 {
			seen[space], all[pid] = true, lines
		}
	}
	return all
}

// namespacePatience bounds the look at one process: the link to its namespace
// cannot be read while it is stuck in execve(2).
const namespacePatience = 500 * time.Millisecond

// namespaceOf names a process's mount namespace, and its mounts unless the
// namespace was seen. What hangs is left behind; the program ends soon.
func namespaceOf(pid int, seen map[string]bool) (space string, lines []mountLine) {
	name := strconv.Itoa(pid)
	links := make(chan string, 1)
	go func() {
		link, _ := os.Readlink("/proc/" + name + "/ns/mnt")
		links <- link
	}()
	select {
	case space = <-links:
	case <-time.After(namespacePatience):
	}
	if space != "" && !seen[space] {
		lines, _ = readMountLines(name)
	}
	return space, lines
}

// processIDs lists the processes, this one and kernel threads aside.
func processIDs() []int {
	f, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil && pid != os.Getpid() && !kernelThread(name) {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// kernelThread reports whether a process has no program: status has `Kthread: 1`
// since Linux 6.8, before that kthreadd, process 2, for its parent. stat is not
// read: that waits for a process that is stuck while it starts a program.
func kernelThread(pid string) bool {
	b, err := os.ReadFile("/proc/" + pid + "/status")
	return err == nil && (bytes.Contains(b, []byte("\nKthread:\t1\n")) || bytes.Contains(b, []byte("\nPPid:\t2\n")) && !bytes.Contains(b, []byte("\nKthread:\t0\n")))
}

// holding is what findHolders found.
type holding struct {
	holders []holder
	mounts  []string // of this namespace, without a process
	unseen  int      // processes that this user may not look at
	stuck   int      // the process at which the search ended, 0 if it did not
}

// findHolders looks for those who keep the mount, which may be gone from its
// place already, in use.
func (h *heldMount) findHolders() holding {
	type found struct {
		pid    int // looked at next
		holder holder
		unseen bool
	}
	results := make(chan found)
	stop := make(chan struct{})
	defer close(stop)
	var out holding
	spaces := h.remaining(&out)
	go func() {
		defer close(results)
		for _, pid := range processIDs() {
			one := found{pid: pid}
			select {
			case results <- one:
			case <-stop:
				return
			}
			one.holder, one.unseen = h.look(pid)
			one.holder.Holds = append(one.holder.Holds, spaces[pid]...)
			select {
			case results <- one:
			case <-stop:
				return
			}
		}
	}()
	patience := time.NewTimer(holderPatience)
	defer patience.Stop()
	for at := 0; ; {
		select {
		case f, more := <-results:
			if !more {
				return out
			}
			at = f.pid
			if f.unseen {
				out.unseen++
			}
			if len(f.holder.Holds) > 0 {
				out.holders = append(out.holders, f.holder)
			}
		case <-patience.C:
			out.stuck = at
			return out
		}
	}
}

// remaining finds the mounts of the same file system, and the overlays over it,
// that are still there: those of other namespaces by a pid.
func (h *heldMount) remaining(out *holding) map[int][]string {
	found := make(map[int][]string)
	for pid, lines := range namespaces() {
		for _, m := range lines {
			text := ""
			switch {
			case m.device == h.device:
				text = "mount " + m.dir
			case m.kind == "overlay" && (strings.Contains(m.options, "="+h.dir+"/") || strings.Contains(m.options, ":"+h.dir+"/")):
				text = "overlay " + m.dir
			default:
				continue
			}
			if pid == 0 {
				out.mounts = append(out.mounts, text)
			} else if text += " in its namespace"; !slices.Contains(found[pid], text) {
				found[pid] = append(found[pid], text)
			}
		}
	}
	return found
}

// look says what a process holds of the mount. unseen: it may not be looked at.
func (h *heldMount) look(pid int) (found holder, unseen bool) {
	dir := "/proc/" + strconv.Itoa(pid) + "/"
	comm, _ := os.ReadFile(dir + "comm")
	found = holder{PID: pid, Command: strings.TrimSuffix(string(comm), "\n")}
	for _, kind := range []struct{ link, name string }{{"cwd", "working directory"}, {"root", "root directory"}} {
		id, err := mountID(dir + kind.link)
		if errors.Is(err, os.ErrPermission) {
			return found, true
		}
		if h.ids[id] {
			found.Holds = append(found.Holds, kind.name+" "+h.name(dir+kind.link))
		}
	}
	files, err := os.ReadDir(dir + "fdinfo")
	if errors.Is(err, os.ErrPermission) {
		return found, true
	}
	for _, f := range files {
		b, err := os.ReadFile(dir + "fdinfo/" + f.Name())
		if err == nil && h.ids[mountIDIn(b)] {
			found.Holds = append(found.Holds, "open file "+h.name(dir+"fd/"+f.Name()))
		}
	}
	if text, err := os.ReadFile(dir + "maps"); err == nil {
		for _, path := range mappedFrom(text, h.device) {
			found.Holds = append(found.Holds, "mapped file "+strings.TrimPrefix(path, h.dir))
		}
	}
	return found, false
}

// name is where a link of /proc leads, below the mount; of its top the mount
// point is named, for a mere / reads as the root of the system.
func (h *heldMount) name(link string) string {
	target, err := os.Readlink(link)
	if err != nil {
		return "?"
	}
	if rest, ok := strings.CutPrefix(target, h.dir); ok && (rest == "" || rest[0] == '/') {
		target = rest
	}
	if target == "" || target == "/" {
		return h.dir
	}
	return target
}

// mountID returns the id of the mount that a link of /proc leads into.
func mountID(link string) (string, error) {
	fd, err := unix.Open(link, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	b, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	return mountIDIn(b), err
}

// mountIDIn reads fdinfo.
func mountIDIn(b []byte) string {
	for line := range bytes.Lines(b) {
		if id, ok := bytes.CutPrefix(line, []byte("mnt_id:")); ok {
			return string(bytes.TrimSpace(id))
		}
	}
	return ""
}

// mappedFrom lists the files in a text of maps that are on the device, MAJOR:MINOR.
func mappedFrom(text []byte, device string) []string {
	major, minor, _ := strings.Cut(device, ":")
	hi, _ := strconv.Atoi(major)
	lo, _ := strconv.Atoi(minor)
	want := fmt.Sprintf("%02x:%02x", hi, lo)
	paths := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) > 5 && fields[3] == want {
			paths[fields[5]] = true
		}
	}
	return slices.Sorted(maps.Keys(paths))
}

// print writes a line of at most 80 columns for each holder.
func (g holding) print(out io.Writer) {
	for _, h := range g.holders {
		more := ""
		if n := len(h.Holds) - 1; n > 0 {
			more = fmt.Sprintf(" (+%d)", n)
		}
		head := fmt.Sprintf("  %7d  %-15s  ", h.PID, clip(visible(h.Command), 15))
		fmt.Fprintf(out, "%s%s%s\n", head, clip(visible(h.Holds[0]), screenWidth-len(head)-len(more)), more)
	}
	for _, m := range g.mounts {
		fmt.Fprintf(out, "  %s\n", clip(visible(m), screenWidth-2))
	}
	if g.unseen > 0 {
		hint := ""
		if os.Geteuid() != 0 {
			hint = ": root sees them"
		}
		fmt.Fprintf(out, "  (%d processes may not be looked at%s)\n", g.unseen, hint)
	}
	if g.stuck > 0 {
		fmt.Fprintf(out, "  (the search ended at process %d, which is stuck)\n", g.stuck)
	}
}
