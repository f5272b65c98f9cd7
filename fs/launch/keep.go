package launch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// errNotOurs is returned for a file or directory that another user could have written.
var errNotOurs = errors.New("not safe from other users")

const (
	versionPatience = time.Minute // for a runtime that is asked for its version
	maxKept         = 1 << 20     // bytes of one kept file
	maxFiles        = 1024        // of one kind: a few for each image there is at one time, of a few KB each
	envMagic        = "neurodeskfs environment 1"
)

// keeper is the user's own cache of small facts that are costly to find out: $XDG_CACHE_HOME/neurodeskfs-launcher, apart from
// the one that his own mount would have, which begins in an empty directory. What it holds decides what a tool sees, so a
// file counts only if this user owns it and its directories and nobody else can write them.
type keeper struct {
	dir string // "" = there is none
}

func newKeeper(h *Host) keeper {
	dir := h.getenv("XDG_CACHE_HOME")
	if !path.IsAbs(dir) {
		home := h.home()
		if home == "" {
			return keeper{}
		}
		dir = path.Join(home, ".cache")
	}
	return keeper{path.Join(dir, "neurodeskfs-launcher")}
}

// safe checks kind, owner and mode.
func safe(st *syscall.Stat_t, kind uint32) error {
	if st.Mode&syscall.S_IFMT != kind || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return errNotOurs
	}
	return nil
}

// safeDir checks a directory.
func safeDir(name string) error {
	var st syscall.Stat_t
	if err := syscall.Lstat(name, &st); err != nil {
		return err
	}
	return safe(&st, syscall.S_IFDIR)
}

// get reads kind/name.
func (k keeper) get(kind, name string) ([]byte, error) {
	if k.dir == "" || !plainName(name) {
		return nil, os.ErrNotExist
	}
	for _, dir := range []string{k.dir, path.Join(k.dir, kind)} {
		if err := safeDir(dir); err != nil {
			return nil, err
		}
	}
	file := path.Join(k.dir, kind, name)
	fd, err := openFile(file, syscall.O_NOFOLLOW|syscall.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if err := safe(&st, syscall.S_IFREG); err != nil || st.Size > maxKept {
		return nil, errNotOurs
	}
	return readOpen(fd, file, 0, int(st.Size))
}

// put writes kind/name as a whole: others see the old one or the new one. It writes nothing where get would not trust it.
func (k keeper) put(kind, name string, text []byte) error {
	if k.dir == "" || !plainName(name) || len(text) > maxKept {
		return os.ErrInvalid
	}
	dir := path.Join(k.dir, kind)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, d := range []string{k.dir, dir} {
		if err := safeDir(d); err != nil {
			return fmt.Errorf("%s: %w", d, err)
		}
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path.Join(dir, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	thin(dir)
	return nil
}

// thin removes the older half of a directory of more than maxFiles files, also what a start that was killed left half
// written: there is a file for each image that was ever used, and nobody tells which are gone. A wanted one that goes is
// found out again.
func thin(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) <= maxFiles {
		return
	}
	written := map[string]time.Time{}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil { // else another start has removed it
			written[e.Name()] = fi.ModTime()
		}
	}
	sort.Slice(entries, func(i, j int) bool { return written[entries[i].Name()].Before(written[entries[j].Name()]) })
	for _, e := range entries[:len(entries)-maxFiles/2] {
		_ = os.Remove(path.Join(dir, e.Name()))
	}
}

// plainName tells names that stay in their directory.
func plainName(name string) bool {
	for i := 0; i < len(name); i++ {
		c := name[i]
		if !nameByte(c, 1) && strings.IndexByte("-.+", c) < 0 {
			return false
		}
	}
	return name != "" && name[0] != '.' && len(name) <= 200
}

// imageEnv tells the variables that the image's scripts set: kept from an earlier start, else by running probe. It takes as
// long as they do, as under apptainer: they may have to be fetched first, on a machine that has no time for them.
func (k keeper) imageEnv(hash, home string, probe func() (*Exec, error)) ([]Var, error) {
	if text, err := k.get("env", hash); err == nil {
		if vars, ok := parseEnv(text, home); ok {
			return vars, nil
		}
	}
	e, err := probe()
	if err != nil {
		return nil, err
	}
	out, err := e.output()
	if err != nil {
		return nil, err
	}
	var kept bytes.Buffer
	kept.WriteString(envMagic + "\x00" + home + "\x00")
	for entry := range strings.SplitSeq(string(out), "\x00") {
		name, _, ok := strings.Cut(entry, "=")
		if ok && validName(name) && !slices.Contains([]string{"HOME", "PWD", "OLDPWD", "SHLVL", "_", "LANG"}, name) {
			kept.WriteString(entry + "\x00")
		}
	}
	kept.WriteString("end")
	vars, ok := parseEnv(kept.Bytes(), home)
	if !ok {
		return nil, errors.New("they set no PATH, or what is no variable")
	}
	_ = k.put("env", hash, kept.Bytes()) // where it cannot be kept, the next start asks again
	return vars, nil
}

// parseEnv reads a kept environment; home is what HOME was, for scripts may use it.
func parseEnv(text []byte, home string) ([]Var, bool) {
	entries := strings.Split(string(text), "\x00")
	if len(entries) < 3 || entries[0] != envMagic || entries[1] != home || entries[len(entries)-1] != "end" {
		return nil, false
	}
	var vars []Var
	path := false
	for _, entry := range entries[2 : len(entries)-1] {
		name, value, ok := strings.Cut(entry, "=")
		if !ok || !validName(name) {
			return nil, false
		}
		path = path || name == "PATH"
		vars = append(vars, Var{name, value})
	}
	return vars, path
}

// runtimeVersion asks a runtime for its version, once for each file: kept by name, size and time of change. It gives ""
// where the answer could not be kept, for asking costs as much as a start.
func (k keeper) runtimeVersion(file string) string {
	fi, err := os.Stat(file)
	if err != nil {
		return ""
	}
	key := strings.ReplaceAll(strings.Trim(file, "/"), "/", "+")
	stamp := strconv.FormatInt(fi.Size(), 10) + " " + strconv.FormatInt(fi.ModTime().UnixNano(), 10) + " "
	if text, err := k.get("runtime", key); err == nil {
		if version, ok := strings.CutPrefix(string(text), stamp); ok {
			return strings.TrimSpace(version)
		}
	}
	if k.put("runtime", key, []byte(stamp+"?\n")) != nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), versionPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, file, "version")
	out, err := cmd.Output()
	if err != nil || len(out) > 100 {
		return ""
	}
	_ = k.put("runtime", key, []byte(stamp+string(out)))
	return strings.TrimSpace(string(out))
}
