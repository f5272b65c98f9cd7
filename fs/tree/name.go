package tree

import (
	"path"
	"strings"
)

// exposed turns a line of commands.txt into a command: its name and, where the
// line is an absolute path, that path. ok is false for what cannot be a file name,
// and for what a terminal would obey.
func exposed(line string) (name, abs string, ok bool) {
	line = strings.TrimSpace(line)
	if strings.HasPrefix(line, "/") {
		abs = path.Clean(line)
		line = path.Base(abs)
	}
	if line == "" || len(line) > 255 || strings.Contains(line, "/") || !nameable(line) {
		return "", "", false
	}
	return line, abs, true
}

// plausible reports whether name can stand in M/bin: what a person may mean to
// type, and nothing that a host's own tools must keep.
func plausible(name string, never map[string]bool) bool {
	if name == "" || name[0] == '.' || name[0] == '-' || never[name] {
		return false
	}
	letter := false
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
			letter = true
		case c >= '0' && c <= '9' || strings.IndexByte("._+-@%=:,~", c) >= 0:
		default:
			return false
		}
	}
	if !letter {
		return false
	}
	return !interpreterVersion(name)
}

// interpreterVersion recognises python3.11, pip3, perl5.36.0, R-4.3 and the
// like: an interpreter's name with a version behind it.
func interpreterVersion(name string) bool {
	base := strings.TrimRight(name, "0123456789.-")
	if base == name {
		return false
	}
	switch base {
	case "python", "pip", "perl", "ruby", "lua", "node", "tclsh", "wish", "php", "R", "julia", "ipython", "idle", "pydoc", "easy_install", "2to", "gcc", "g++":
		return true
	}
	return false
}

// DefaultNever are the names that never stand in M/bin: shells, interpreters,
// core utilities, package tools, and what starts jobs and their ranks, which would
// shadow the host's or surprise a script.
var DefaultNever = strings.Fields(`
	sh bash dash zsh ksh csh tcsh fish ash rbash busybox
	python python2 python3 ipython ipython3 pydoc pydoc3 idle idle3 2to3
	R Rscript julia perl ruby lua node nodejs npm npx tclsh wish php java javac octave matlab gawk mawk awk
	conda mamba micromamba activate deactivate pip pip3 pipx easy_install wheel virtualenv uv poetry
	apt apt-get apt-cache dpkg yum dnf rpm zypper apk brew gem cargo
	sudo su doas login passwd chroot mount umount ssh scp sftp
	[ arch b2sum base32 base64 basename basenc cat chcon chgrp chmod chown cksum comm cp csplit cut date dd df dir
	dircolors dirname du echo env expand expr factor false fmt fold groups head hostid hostname id install join kill link
	ln logname ls md5sum mkdir mkfifo mknod mktemp mv nice nl nohup nproc numfmt od paste pathchk pinky pr printenv
	printf ptx pwd readlink realpath rm rmdir runcon seq sha1sum sha224sum sha256sum sha384sum sha512sum shred shuf
	sleep sort split stat stdbuf stty sum sync tac tail tee test timeout touch tr true truncate tsort tty uname
	unexpand uniq unlink uptime users vdir wc who whoami yes
	grep egrep fgrep sed find xargs which whereis locate less more file tar gzip gunzip zcat bzip2 bunzip2 xz unxz zip
	unzip zstd diff patch cmp ed vi vim nano emacs man info top ps pgrep pkill free watch time tput clear reset
	curl wget rsync git svn make cmake gcc g++ cc c++ cpp ld as ar nm strip ranlib objdump gdb strace ldd
	openssl gpg dbus-daemon xdg-open apptainer singularity bwrap docker podman module ml
	mpirun mpiexec orterun srun sbatch salloc scancel squeue sacct sinfo qsub qstat qdel
`)

func neverSet(names []string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}
