package launch

import (
	"io/fs"
	"path"
	"slices"
	"strings"
)

// ownMount tells whether the image lies on a FUSE mount that nobody but its owner can read, root included.
func ownMount(h *Host, mounts []hostMount, rootfs string) bool {
	if h.UID == 0 {
		return false
	}
	best := hostMount{}
	for _, m := range mounts {
		if within(rootfs, m.point) && len(m.point) >= len(best.point) {
			best = m
		}
	}
	return strings.HasPrefix(best.fstype, "fuse") && !slices.Contains(strings.Split(best.super, ","), "allow_other")
}

// namespaces refuses a start that the kernel would: an ordinary user needs either a user namespace or a setuid program.
// The files asked are the kernel's own, three short reads.
func (p *planner) namespaces(c choice) error {
	h := p.host
	if h.UID == 0 || len(p.app.RuntimeCommand) > 0 {
		return nil
	}
	why, ask := h.namespacesForbidden(c.runtime.Name())
	if why == "" {
		return nil
	}
	setuid := h.setuidStarter(c)
	switch {
	case setuid && !p.job.OwnMount:
		return nil
	case p.job.OwnMount && c.runtime != runtimeBwrap && setuid:
		return p.fail("the mount is yours alone, so %s needs a user namespace, which this machine forbids (%s); "+
			"ask your administrator for user_allow_other in /etc/fuse.conf and mount with allow_other, or for %s", c.runtime.Name(), why, ask)
	case h.Nested:
		return p.fail("%s %s is another container's tool, and %s does not work inside this one (%s); call it from outside",
			p.cmd.App, p.cmd.Version, c.runtime.Name(), why)
	}
	return p.fail("%s needs user namespaces, which this machine forbids (%s); ask your administrator for %s, or for apptainer with its setuid starter (package apptainer-suid)",
		c.runtime.Name(), why, ask)
}

// namespacesForbidden reads what can keep a user from making a user namespace: the reason and the remedy, "" when nothing does.
func (h *Host) namespacesForbidden(runtime string) (why, ask string) {
	sysctl := func(name string) string {
		text, err := h.ReadAt("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), 0, 32)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(text))
	}
	switch {
	case sysctl("user.max_user_namespaces") == "0":
		return "user.max_user_namespaces = 0", "`sysctl user.max_user_namespaces=15000`"
	case sysctl("kernel.unprivileged_userns_clone") == "0":
		return "kernel.unprivileged_userns_clone = 0", "`sysctl kernel.unprivileged_userns_clone=1`"
	case sysctl("kernel.apparmor_restrict_unprivileged_userns") == "1" && !h.profiled(runtime):
		return "kernel.apparmor_restrict_unprivileged_userns = 1", "an AppArmor profile with `userns,` for " + runtime
	}
	return "", ""
}

// profiled tells whether AppArmor has a profile of that program, by the name of the file as every package has it.
func (h *Host) profiled(runtime string) bool {
	entries, err := h.ReadDir("/etc/apparmor.d", 4096)
	if err != nil {
		return true // cannot be told: the runtime's own message must do
	}
	for _, e := range entries {
		if strings.Contains(e.Name(), runtime) {
			return true
		}
	}
	return false
}

// setuidStarter tells whether the runtime can do without user namespaces.
func (h *Host) setuidStarter(c choice) bool {
	file := c.words[0]
	for range 8 {
		link, err := h.Readlink(file)
		if err != nil {
			break
		}
		if !path.IsAbs(link) {
			link = path.Join(path.Dir(file), link)
		}
		file = link
	}
	candidates := []string{file}
	if c.runtime != runtimeBwrap {
		prefix, name := path.Dir(path.Dir(file)), c.runtime.Name()
		candidates = nil
		for _, dir := range []string{"libexec", "lib", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu"} {
			candidates = append(candidates, path.Join(prefix, dir, name, "bin/starter-suid"))
		}
	}
	for _, name := range candidates {
		if fi, err := h.Stat(name); err == nil && fi.Mode()&fs.ModeSetuid != 0 {
			return true
		}
	}
	return false
}
