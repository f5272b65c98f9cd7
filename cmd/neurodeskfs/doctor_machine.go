package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/fs/session"
)

// programPatience is how long a program may take to say its version.
const programPatience = 10 * time.Second

func (m machine) fuseDevice() Check {
	const name = "FUSE device"
	f, err := os.OpenFile(m.path("/dev/fuse"), os.O_RDWR, 0)
	switch {
	case err == nil:
		f.Close()
		return ok(name, "/dev/fuse can be opened")
	case errors.Is(err, os.ErrPermission):
		return fail(name, "chmod 666 /dev/fuse as root, or allow the device in this container", "/dev/fuse may not be opened")
	}
	return fail(name, "modprobe fuse as root, or start this container with --device /dev/fuse", "there is no /dev/fuse")
}

// fusermount looks for the helper by which ordinary users mount.
func (m machine) fusermount(ctx context.Context) Check {
	const name = "fusermount3"
	const mend = "install the package fuse3"
	dirs := append(filepath.SplitList(os.Getenv("PATH")), "/usr/bin", "/bin", "/usr/local/bin")
	for _, program := range []string{"fusermount3", "fusermount"} {
		for _, dir := range dirs {
			path := filepath.Join(dir, program)
			info, err := os.Stat(m.path(path))
			if err != nil || !info.Mode().IsRegular() || !filepath.IsAbs(path) {
				continue
			}
			if m.uid != 0 && info.Mode()&os.ModeSetuid == 0 {
				return fail(name, "chmod u+s "+path+" as root, or install the package fuse3 anew", "%s has no setuid bit, and users cannot mount", path)
			}
			return ok(name, "%s (%s)", path, versionOf(ctx, m.path(path), "-V"))
		}
	}
	if m.uid == 0 {
		return warn(name, mend+" if ordinary users shall mount", "not found; root does not need it")
	}
	return fail(name, mend, "not found, and users cannot mount without it")
}

// versionOf runs a program for the first line of what it says.
func versionOf(ctx context.Context, path string, args ...string) string {
	ctx, cancel := context.WithTimeout(ctx, programPatience)
	defer cancel()
	c := exec.CommandContext(ctx, path, args...)
	c.WaitDelay = time.Second
	out, err := c.Output()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if err != nil || line == "" {
		return "does not say its version"
	}
	return clip(line, 60)
}

func (m machine) allowOther() Check {
	const name = "other users"
	for line := range strings.Lines(m.setting("/etc/fuse.conf")) {
		if strings.TrimSpace(line) == "user_allow_other" {
			return ok(name, "user_allow_other is set: mount --allow-other shows a user's mount to others")
		}
	}
	if m.uid == 0 {
		return ok(name, "root's mount is for all users; a user's is for that user (no user_allow_other)")
	}
	return ok(name, "the mount is for you alone (no user_allow_other in /etc/fuse.conf)")
}

// userNamespaces looks at what apptainer without setuid and bwrap need.
func (m machine) userNamespaces() []Check {
	const name = "user namespaces"
	var checks []Check
	for _, s := range []struct{ file, bad, mend, text string }{
		{"/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000 as root", "none are allowed"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1 as root", "they are for root alone"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
			"install apptainer as a package, which brings its AppArmor profile; or sysctl kernel.apparmor_restrict_unprivileged_userns=0 as root", "AppArmor restricts them to programs with a profile"},
	} {
		if m.setting(s.file) == s.bad {
			checks = append(checks, warn(name, s.mend, "%s; without them apptainer needs its setuid part", s.text))
		}
	}
	if len(checks) > 0 {
		return checks
	}
	if m.root == "" && !canUnshare() {
		return []Check{warn(name, "if this is a container, allow user namespaces in it (its seccomp profile)", "the system allows them, but none can be made here")}
	}
	return []Check{ok(name, "they can be made")}
}

// canUnshare tries to make a user namespace.
func canUnshare() bool {
	self, err := os.Executable()
	if err != nil {
		return false
	}
	c := exec.Command(self, "version")
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
	}
	return c.Run() == nil
}

// runtimes looks for the programs that start containers.
func runtimes(ctx context.Context) []Check {
	var checks []Check
	full, lane := false, false // apptainer or singularity; bwrap
	for _, program := range []string{"apptainer", "singularity", "bwrap"} {
		path, err := exec.LookPath(program)
		if err != nil {
			continue
		}
		full = full || program != "bwrap"
		lane = lane || program == "bwrap"
		checks = append(checks, ok(program, "%s (%s)", path, versionOf(ctx, path, "--version")))
	}
	switch {
	case lane && !full:
		checks = append(checks, warn("apptainer", "module load apptainer (or singularity), or have the package apptainer installed",
			"neither apptainer nor singularity is in PATH: bwrap runs the tools, without GPU and writable_tmpfs"))
	case !full:
		checks = append(checks, fail("apptainer", "module load apptainer (or singularity), or have the package apptainer installed",
			"neither apptainer nor singularity is in PATH: no tool can be started"))
	}
	return checks
}

// mountsAnswer looks at the mounts there are, each with a time limit.
func mountsAnswer() []Check {
	mounts, err := session.FindMounts()
	if err != nil {
		return []Check{warn("mounts", "is /proc mounted?", "%v", err)}
	}
	var checks []Check
	for _, m := range mounts {
		if m.Root != "/" {
			continue // a part of another one
		}
		name := "mount " + m.Mountpoint
		_, err := within(context.Background(), answerPatience, func() ([]byte, error) { return readOwn(m.Mountpoint, "version") })
		switch {
		case err == nil:
			checks = append(checks, ok(name, "answers"))
		case errors.Is(err, errNoAnswer):
			checks = append(checks, fail(name, "neurodeskfs umount "+m.Mountpoint+" names the programs that use it", "%v", err))
		case errors.Is(err, os.ErrPermission):
			checks = append(checks, ok(name, "belongs to another user"))
		default:
			checks = append(checks, fail(name, "neurodeskfs umount "+m.Mountpoint+", then mount again", "%v", err))
		}
	}
	return checks
}

// roomWanted is the free space below which doctor warns, in bytes: some images
// need this for one run of a tool.
const roomWanted = 5 << 30

// cacheDisk looks at the disk of the cache.
func cacheDisk(c config.Cache) []Check {
	const name = "cache disk"
	const elsewhere = "put the cache elsewhere: cache.dir in the configuration, or --cache DIR"
	dir := c.Dir
	for !exists(dir) && dir != "/" {
		dir = filepath.Dir(dir)
	}
	if f, err := os.CreateTemp(dir, ".doctor-"); err == nil {
		f.Close()
		os.Remove(f.Name())
	} else {
		return []Check{fail(name, elsewhere, "%s cannot be written: %v", dir, errors.Unwrap(err))}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return []Check{fail(name, elsewhere, "%s: %v", dir, err)}
	}
	checks := []Check{}
	if kind, shared := networkDisks[int64(st.Type)]; shared {
		checks = append(checks, warn(name, elsewhere+" (a local disk is faster, and each node needs its own cache)", "%s is on %s", dir, kind))
	}
	free := int64(st.Bavail) * st.Bsize
	text := fmt.Sprintf("%s free in %s, quota %s", bytesText(free), dir, bytesText(int64(c.Quota)))
	switch {
	case free < roomWanted && free < int64(c.Quota):
		checks = append(checks, warn(name, "neurodeskfs cache prune, a smaller cache.quota, or another cache.dir", "%s", text))
	case int64(st.Blocks)*st.Bsize < int64(c.Quota):
		checks = append(checks, warn(name, "set cache.quota below the disk's size", "%s is more than the disk has", text))
	default:
		checks = append(checks, ok(name, "%s", text))
	}
	return checks
}

// networkDisks are file systems that are shared between machines (statfs(2)).
var networkDisks = map[int64]string{
	unix.NFS_SUPER_MAGIC: "NFS", unix.SMB_SUPER_MAGIC: "SMB", 0xff534d42: "CIFS", 0xfe534d42: "SMB2", unix.CEPH_SUPER_MAGIC: "Ceph",
	0x0bd00bd0: "Lustre", 0x47504653: "GPFS", 0x19830326: "BeeGFS", unix.AFS_SUPER_MAGIC: "AFS", unix.V9FS_MAGIC: "9P",
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
