package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// account is who mounts and who runs the tools.
type account struct {
	name       string
	uid, gid   int
	credential *syscall.Credential // nil: we are it
}

// chooseAccount is whoever runs the demo. For root it is an ordinary user, if
// one can mount and start containers on this machine: that is the case that
// needs showing.
func chooseAccount(ctx context.Context) account {
	self := account{name: "root", uid: os.Getuid(), gid: os.Getgid()}
	if self.uid != 0 {
		self.name = strconv.Itoa(self.uid)
		if u, err := user.Current(); err == nil {
			self.name = u.Username
		}
		return self
	}
	fuse, err := os.Stat("/dev/fuse")
	if err != nil || fuse.Mode()&0o006 != 0o006 {
		return self
	}
	if _, err := exec.LookPath("fusermount3"); err != nil {
		return self
	}
	for _, name := range []string{os.Getenv("SUDO_USER"), "nduser", "nobody"} {
		if who, ok := ordinary(name); ok && hasNamespaces(ctx, who) {
			return who
		}
	}
	return self
}

// ordinary looks an account up that is not root's.
func ordinary(name string) (account, bool) {
	u, err := user.Lookup(name)
	if err != nil {
		return account{}, false
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err1 != nil || err2 != nil || uid == 0 {
		return account{}, false
	}
	return account{name, uid, gid, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, true
}

// hasNamespaces tells whether the account may make a user namespace, which its
// containers need.
func hasNamespaces(ctx context.Context, who account) bool {
	cmd := command(ctx, "unshare", "--user", "--map-root-user", "true")
	cmd.Dir = "/"
	cmd.SysProcAttr.Credential = who.credential
	return cmd.Run() == nil
}

// searchPath is the system's part of PATH, plus where apptainer is.
func searchPath() string {
	dirs := "/usr/local/bin:/usr/bin:/bin"
	if p, err := exec.LookPath("apptainer"); err == nil && !strings.Contains(dirs+":", filepath.Dir(p)+":") {
		dirs += ":" + filepath.Dir(p)
	}
	return dirs
}

// needCommands fails when a program is missing.
func needCommands(names ...string) error {
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%s is missing: the demo needs Debian or Ubuntu, where make deps installs what it needs", name)
		}
	}
	return nil
}
