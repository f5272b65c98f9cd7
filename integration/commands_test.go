package integration

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	iofs "io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/integration/golden"
)

// commandRow is a line of a golden command list.
type commandRow struct {
	image, command string
	args           []string
	exit           string // a number, or signal:N
	stdout         string // text:, sha256: or has:
	stdin          string // a file of the samples, or -
	outputs        map[string]string
}

// goldenCommands reads the command list of a repository.
func goldenCommands(t *testing.T, fqrn string) (rows []commandRow) {
	t.Helper()
	f, err := os.Open(golden.Path(t, "neurodesk", "commands", fqrn+".tsv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		c := strings.Split(lines.Text(), "\t")
		if strings.HasPrefix(c[0], "#") {
			continue
		}
		if len(c) != 7 {
			t.Fatalf("%d columns in %q", len(c), lines.Text())
		}
		row := commandRow{image: c[0], command: c[1], exit: c[3], stdout: c[4], stdin: c[5], outputs: map[string]string{}}
		if err := json.Unmarshal([]byte(c[2]), &row.args); err != nil {
			t.Fatal(err)
		}
		if row.exit == "255" { // apptainer's own for a command that does not exist
			row.exit = "127"
		}
		if c[6] != "-" {
			for _, o := range strings.Split(c[6], ";") {
				name, sum, _ := strings.Cut(o, "=")
				row.outputs[name] = sum
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// needApptainer skips a test where there is no apptainer, except in CI.
func needApptainer(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("apptainer"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// TestLaunchGoldenCommands types each command of the golden list.
func TestLaunchGoldenCommands(t *testing.T) {
	needApptainer(t)
	const fqrn = "neurodesk.golden.test"
	src := newStratum(t).Golden(fqrn)
	src.Layout = "neurodesk"
	m := mount(t, setup{Sources: []source{src}})
	m.Indexed()
	rows := goldenCommands(t, fqrn)
	if len(rows) < 50 {
		t.Fatalf("%d rows only", len(rows))
	}
	typed := map[string]int{}
	t.Run("rows", func(t *testing.T) { // parallel ones end before the mount does
		for i, row := range rows {
			t.Run(fmt.Sprintf("%02d %s", i+1, path.Base(row.command)), func(t *testing.T) {
				c, way := row.how(t, m)
				typed[way]++
				t.Parallel()
				row.check(t, c)
			})
		}
	})
	if typed["bin"] < 20 || typed["apps"] < 5 || typed["exec"] < 5 {
		t.Errorf("commands were typed in these ways: %v", typed)
	}
	if s := m.Status(); s.IOErrors != 0 {
		t.Errorf("%d I/O errors", s.IOErrors)
	}
}

// how says how a row's command is typed: by its plain name if its image owns
// that name, by the app's bin, or by exec where the app does not expose it.
func (row commandRow) how(t *testing.T, m *mounted) (c *exec.Cmd, way string) {
	app := appOf(t, row.image)
	name := path.Base(row.command)
	if text, err := os.ReadFile(m.Path("bin", name)); err == nil && strings.Contains(string(text), row.image+"\n") {
		return exec.Command(m.Path("bin", name), row.args...), "bin"
	}
	if p := m.Path("apps", app, "bin", name); exists(p) {
		return exec.Command(p, row.args...), "apps"
	}
	return exec.Command(program(t), append([]string{"exec", "--mount", m.Dir, app, "--", row.command}, row.args...)...), "exec"
}

// appOf is NAME/VERSION_DATE of containers/NAME_VERSION_DATE/... A name may have
// underscores too.
func appOf(t *testing.T, image string) string {
	t.Helper()
	parts := strings.Split(path.Base(path.Dir(image)), "_")
	if len(parts) < 3 {
		t.Fatalf("image %s", image)
	}
	n := len(parts) - 2
	return strings.Join(parts[:n], "_") + "/" + strings.Join(parts[n:], "_")
}

func (row commandRow) check(t *testing.T, c *exec.Cmd) {
	row.checkIn(t, c, sampleDir(t))
}

// checkIn is check in a copy of the samples that is there already.
func (row commandRow) checkIn(t *testing.T, c *exec.Cmd, dir string) {
	t.Helper()
	before := filesBelow(t, dir)
	c.Dir = dir
	c.Env = append(os.Environ(), "PWD="+dir)
	if c.SysProcAttr != nil { // another user, who cannot look into our home
		c.Env = append(c.Env, "HOME="+filepath.Dir(dir))
	}
	if row.stdin != "-" {
		f, err := os.Open(filepath.Join(dir, row.stdin))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		c.Stdin = f
	}
	r := run(t, c)
	exit := strconv.Itoa(r.Status)
	if r.Signal != 0 {
		exit = fmt.Sprintf("signal:%d", int(r.Signal))
	}
	if exit != row.exit || !row.prints(t, r.Stdout) {
		t.Errorf("%q\n\texit %s, want %s\n\tstdout %q\n\twant   %s\n\tstderr %q", c.Args, exit, row.exit, r.Stdout, row.stdout, r.Stderr)
	}
	changed := map[string]string{}
	for name, sum := range filesBelow(t, dir) {
		if before[name] != sum {
			changed[name] = sum
		}
	}
	if !maps.Equal(changed, row.outputs) {
		t.Errorf("%q: files made or changed %v, want %v", c.Args, changed, row.outputs)
	}
}

// prints compares a command's output with the list's.
func (row commandRow) prints(t *testing.T, stdout string) bool {
	t.Helper()
	kind, want, _ := strings.Cut(row.stdout, ":")
	switch kind {
	case "text":
		if err := json.Unmarshal([]byte(`"`+want+`"`), &want); err != nil {
			t.Fatalf("%s: %v", row.stdout, err)
		}
		return stdout == want
	case "sha256":
		sum := sha256.Sum256([]byte(stdout))
		return hex.EncodeToString(sum[:]) == want
	case "has":
		return strings.Contains(stdout, want)
	}
	t.Fatalf("unknown kind of output %q", row.stdout)
	return false
}

// sampleDir is a fresh copy of the samples with an empty directory out. Its name
// is part of some outputs.
func sampleDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(shortDir(t), "nd-run")
	if err := os.CopyFS(dir, os.DirFS(golden.Path(t, "neurodesk", "samples"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "out"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// filesBelow are the regular files in dir with their hashes.
func filesBelow(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d iofs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		sum, err := hashFile(p)
		rel, _ := filepath.Rel(dir, p)
		files[rel] = sum
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestLaunchRetiredImage runs a command at the last revision that has its image,
// and at the next one, where it says so and does not look like success.
func TestLaunchRetiredImage(t *testing.T) {
	needApptainer(t)
	const retired = 69
	for tag, want := range map[string]int{"golden-rev1": 0, "golden-rev2": retired} {
		src := newStratum(t).Golden("neurodesk.golden.test")
		src.Layout, src.Tag = "neurodesk", tag
		m := mount(t, setup{Sources: []source{src}})
		m.Indexed()
		r := m.Run(m.Path("apps/retiredtool/1.0_20220202/bin/retired-view"), "a", "b")
		says := strings.Contains(r.Stderr, "is retired")
		if r.Status != want || says != (want == retired) {
			t.Errorf("%s: exit status %d, want %d: %q %q", tag, r.Status, want, r.Stdout, r.Stderr)
		}
	}
}
