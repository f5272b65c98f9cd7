package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/neurodesk/neurodeskfs/integration/checkout"
	"github.com/neurodesk/neurodeskfs/integration/golden"
)

// bench is one run.
type bench struct {
	root, work string // the source tree; a temporary directory
	golden     string // the folder of test data; "" where there is none
	who        account
	quick      bool
	full       bool
	report     *report

	current   string         // the case that runs
	scratch   string         // its directory, in work
	scratches int            // directories of cases so far
	closers   []func() error // what the case has to close
	mounts    int            // made in this case
}

// account is who mounts and runs tools.
type account struct {
	name       string
	uid, gid   int
	credential *syscall.Credential // nil: we are it
}

// newBench finds out what is here and makes the temporary directory.
func newBench(ctx context.Context) (*bench, error) {
	b := &bench{who: chooseAccount(ctx), quick: isSet("QUICK"), full: isSet("FULL")}
	var err error
	if b.root, err = checkout.Dir(); err != nil {
		return nil, err
	}
	if b.golden, err = golden.Dir(); err != nil {
		b.golden = ""
	}
	// not $TMPDIR: mount points stand in #! lines, which must be short and without blanks
	if b.work, err = os.MkdirTemp("/tmp", "ndb."); err != nil {
		return nil, err
	}
	if err := b.furnish(); err != nil {
		return nil, errors.Join(err, b.cleanUp())
	}
	b.report = newReport(ctx, b)
	return b, nil
}

// furnish copies the programs to where the account can read them, and makes the
// directories.
func (b *bench) furnish() error {
	if err := os.Chmod(b.work, 0o755); err != nil {
		return err
	}
	for _, dir := range []string{"bin", "home"} {
		if err := b.makeDir(filepath.Join(b.work, dir)); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for from, name := range map[string]string{filepath.Join(b.root, "bin/neurodeskfs"): "neurodeskfs", self: "worker"} {
		program, err := os.ReadFile(from)
		if err != nil {
			return fmt.Errorf("a program is not built, type make bench: %w", err)
		}
		if err := os.WriteFile(filepath.Join(b.work, "bin", name), program, 0o755); err != nil {
			return err
		}
	}
	return b.newScratch()
}

// newScratch makes the directory for one case. It is a new one each time, for
// what could not be taken away stays in the last.
func (b *bench) newScratch() error {
	b.scratches++
	b.scratch, b.closers, b.mounts = filepath.Join(b.work, fmt.Sprintf("c%d", b.scratches)), nil, 0
	return b.makeDir(b.scratch)
}

// makeDir makes a directory that belongs to the account.
func (b *bench) makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chown(dir, b.who.uid, b.who.gid)
}

// program is the path of one of the copied programs.
func (b *bench) program(name string) string { return filepath.Join(b.work, "bin", name) }

// rounds is how often a measurement is made.
func (b *bench) rounds(quick, normal int) int {
	if b.quick {
		return quick
	}
	return normal
}

// lacks says what a case needs that is not here; "" if nothing.
func (b *bench) lacks(needs []string) string {
	for _, need := range needs {
		if need == "golden data" {
			if b.golden == "" {
				return "no golden data (../shared/golden or $NEURODESKFS_GOLDEN)"
			}
			continue
		}
		if _, err := exec.LookPath(need); err != nil {
			return need + " is not in PATH"
		}
	}
	return ""
}

// has tells whether a peer's program is here, and names it as missing if not.
func (b *bench) has(program string) bool {
	if _, err := exec.LookPath(program); err != nil {
		b.report.miss(program, "not in PATH")
		return false
	}
	return true
}

// isSet tells whether an environment variable is neither empty nor 0.
func isSet(name string) bool {
	v := os.Getenv(name)
	return v != "" && v != "0"
}

// chooseAccount is whoever runs us; for root an ordinary user, where one can
// mount and start containers.
func chooseAccount(ctx context.Context) account {
	self := account{name: strconv.Itoa(os.Getuid()), uid: os.Getuid(), gid: os.Getgid()}
	if u, err := user.Current(); err == nil {
		self.name = u.Username
	}
	fuse, err := os.Stat("/dev/fuse")
	if self.uid != 0 || err != nil || fuse.Mode()&0o006 != 0o006 {
		return self
	}
	if _, err := exec.LookPath("fusermount3"); err != nil {
		return self
	}
	for _, name := range []string{os.Getenv("SUDO_USER"), "nduser", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err1 != nil || err2 != nil || uid == 0 {
			continue
		}
		who := account{name, uid, gid, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		cmd := group(ctx, "unshare", "--user", "--map-root-user", "true") // containers need it
		cmd.Dir = "/"
		cmd.SysProcAttr.Credential = who.credential
		if cmd.Run() == nil {
			return who
		}
	}
	return self
}

// daemonLog is the end of the daemons' logs, for a case that failed.
func (b *bench) daemonLog() string {
	const most = 2000
	var s strings.Builder
	files, _ := filepath.Glob(filepath.Join(b.scratch, "cache*", "neurodeskfs.log"))
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err == nil && len(text) > 0 {
			fmt.Fprintf(&s, "\n%s:\n%s", filepath.Base(filepath.Dir(f)), text[max(0, len(text)-most):])
		}
	}
	return s.String()
}
