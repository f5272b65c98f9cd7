package fs

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// Programs that read everything they find would fetch everything there is.
// They are known by their process's name, as in /proc/PID/comm, and kept out of
// what fetches: to them the guarded directories (volume.Guarded: apps, cvmfs and
// the list of images) are empty and the files below cvmfs cannot be read.
//
// How, and why so: READDIR is answered ENOENT, which readdir(3) takes for the
// end of the directory, and which the kernel, unlike an empty listing, does not
// keep for everybody else; READ is answered EACCES. LOOKUP is answered as to
// anyone. ENOENT there would be kept by nobody either, but the kernel asks the
// same LOOKUP to renew a name it holds, and a renewal that fails detaches every
// mount below that name and unhashes the directory that somebody stands in
// (fuse_dentry_revalidate): a virus scanner would break running containers. Who
// may not list learns no names, and a LOOKUP alone fetches no file.
//
// The limit: what the kernel holds it gives out without asking, to a crawler
// too. It gets no further than others have been, and nothing is fetched for it.
// Programs that crawl under another name (find in a script, rsync in rsnapshot)
// need PRUNEFS="fuse.neurodeskfs", --one-file-system or the like.

// DefaultCrawlers are kept out unless the configuration says otherwise.
var DefaultCrawlers = []string{
	// locate
	"updatedb", "updatedb.plocate", "updatedb.mlocate", "plocate", "mlocate", "slocate",
	// desktop search
	"tracker-miner-fs", "tracker-miner-fs-3", "tracker-extract", "tracker-extract-3", "localsearch-3", "localsearch-extractor-3",
	"baloo_file", "baloo_file_extractor", "baloorunner", "recollindex", "beagled", "nepomukindexer",
	// virus and integrity scanners
	"clamscan", "clamd", "clamonacc", "freshclam", "savscan", "maldet", "rkhunter", "chkrootkit", "wdavdaemon", "aide", "tripwire", "samhain", "ossec-syscheckd",
	// backup
	"rsnapshot", "rdiff-backup", "duplicity", "restic", "borg", "borgmatic", "kopia", "bacula-fd", "bareos-fd", "amandad", "burp",
	"dsmc", "dsmcad", "nbdisco", "bpbkar", "veeamagent", "urbackupclient", "backintime", "duplicati", "backuppc", "timeshift",
}

// commLen is how much of a process's name the kernel keeps (TASK_COMM_LEN - 1).
const commLen = 15

// Crawlers tells crawlers from other programs. Safe for concurrent use.
type Crawlers struct {
	names map[string]bool
	read  func(tid uint32) (names []string) // of a thread and of its process
	now   func() time.Time
	// seen remembers verdicts for a second, so that a process that reads much
	// is looked at once: thread, second and verdict in one word.
	seen [1024]atomic.Uint64
}

// NewCrawlers keeps out the programs with these names, of which the first 15
// bytes count.
func NewCrawlers(names []string) *Crawlers {
	c := &Crawlers{names: map[string]bool{}, read: commsOf, now: time.Now}
	for _, n := range names {
		c.names[n[:min(len(n), commLen)]] = true
	}
	return c
}

// Is reports whether the thread, as a request's header has it, is a crawler's.
// 0, a thread of a foreign pid namespace, is none, and neither is one that is
// gone. A verdict may be a second old.
func (c *Crawlers) Is(tid uint32) bool {
	if c == nil || len(c.names) == 0 || tid == 0 {
		return false
	}
	slot := &c.seen[tid%uint32(len(c.seen))]
	stamp := uint64(tid)<<32 | uint64(uint32(c.now().Unix()))<<1&0xffffffff
	if v := slot.Load(); v&^1 == stamp {
		return v&1 == 1
	}
	for _, name := range c.read(tid) {
		if c.names[name] {
			slot.Store(stamp | 1)
			return true
		}
	}
	slot.Store(stamp)
	return false
}

// commsOf reads the names of a thread and of its process; threads may have
// names of their own.
func commsOf(tid uint32) []string {
	status, err := os.ReadFile("/proc/" + strconv.FormatUint(uint64(tid), 10) + "/status")
	if err != nil {
		return nil
	}
	var names []string
	for line := range strings.Lines(string(status)) {
		if name, ok := strings.CutPrefix(line, "Name:\t"); ok {
			names = append(names, strings.TrimSuffix(name, "\n"))
		}
		if tgid, ok := strings.CutPrefix(line, "Tgid:\t"); ok {
			tgid = strings.TrimSpace(tgid)
			if tgid == strconv.FormatUint(uint64(tid), 10) {
				break
			}
			if b, err := os.ReadFile("/proc/" + tgid + "/comm"); err == nil {
				names = append(names, strings.TrimSuffix(string(b), "\n"))
			}
			break
		}
	}
	return names
}

// refused reports whether the thread that asks is a crawler's and must not read
// the entry.
func (f *FS) refused(v volume.Volume, entry uint64, tid uint32) bool {
	g, ok := v.(volume.Guarded)
	return ok && f.opts.Crawlers != nil && g.Guarded(entry) && f.opts.Crawlers.Is(tid)
}

// refusedDir is refused for a listing.
func (f *FS) refusedDir(in *fuse.ReadIn) bool {
	v, dir, err := f.node(in.NodeId)
	return err == nil && f.refused(v, dir, in.Pid)
}
