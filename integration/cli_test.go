package integration

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// TestMountTranscripts runs what a person types, as testdata/script has it.
// Besides testscript's own commands there are:
//
//	ends STATUS ARGUMENT...  runs neurodeskfs, which must end with that status
//	narrow stdout|stderr     no line is longer than 80 columns
//	line stderr              it is one line, and begins with the program's name
//
// $M is an empty directory to mount on, $CONFIG a configuration with a served
// repository, $CACHE its cache.
func TestMountTranscripts(t *testing.T) {
	bin := program(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"ends":   func(ts *testscript.TestScript, _ bool, args []string) { ends(ts, bin, args) },
			"narrow": func(ts *testscript.TestScript, _ bool, args []string) { narrow(ts, args) },
			"line":   func(ts *testscript.TestScript, _ bool, args []string) { oneLine(ts, args) },
		},
		Setup: func(env *testscript.Env) error {
			s := newStratum(t)
			_, _, src := s.publish(cvmfstest.Options{FQRN: "apps.example.org"}, appsTree())
			src.Layout = "neurodesk"
			set, file := setup{Sources: []source{src}}.prepare(t)
			env.Setenv("M", set.Dir)
			env.Setenv("CACHE", set.Cache)
			env.Setenv("CONFIG", file)
			env.Setenv("KEY", src.Keys)
			env.Setenv("PATH", filepath.Dir(bin)+":"+os.Getenv("PATH"))
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("TMPDIR", os.Getenv("TMPDIR")) // by which processes that are left behind are found
			env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, "no-config"))
			env.Setenv("XDG_CACHE_HOME", filepath.Join(env.WorkDir, "no-cache"))
			env.Defer(func() {
				if r, err := runCommand(exec.Command(bin, "status", set.Dir)); err == nil && r.Status == 0 {
					t.Errorf("the transcript leaves a mount behind")
					exec.Command(bin, "umount", set.Dir).Run()
				}
			})
			return nil
		},
	})
}

// appsTree has images without programs in them: nothing of them is run here.
func appsTree() *cvmfstest.Tree {
	tree := cvmfstest.NewTree()
	for name, commands := range map[string]string{
		"fsl_6.0.7.4_20240101": "bet\nfast\n", "fsl_6.0.7.16_20250101": "bet\nfast\n",
		"bidsapp_0.1_20240701": "bet\ndcm2niix\na\nb\n", "dcm2niix_1.0_20240101": "dcm2niix\n",
	} {
		dir := "containers/" + name
		tree.Nested(dir)
		tree.File(dir+"/commands.txt", []byte(commands), 0o644)
		tree.File(dir+"/"+name+".simg/bin/x", nil, 0o755)
	}
	return tree
}

func ends(ts *testscript.TestScript, bin string, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: ends STATUS ARGUMENT...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(bin, args[1:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("neurodeskfs %s ends with status %d, not %d", strings.Join(args[1:], " "), got, want)
	}
}

func narrow(ts *testscript.TestScript, args []string) {
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		line = strings.TrimSuffix(strings.ReplaceAll(line, "\t", "        "), "\n")
		if n := utf8.RuneCountInString(line); n > 80 {
			ts.Fatalf("a line of %d columns: %s", n, line)
		}
	}
}

func oneLine(ts *testscript.TestScript, args []string) {
	text := ts.ReadFile(args[0])
	if !strings.HasPrefix(text, "neurodeskfs: ") || strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") {
		ts.Fatalf("%s is not one line of reason: %q", args[0], text)
	}
}
