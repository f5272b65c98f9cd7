package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// launcherVariable makes the test's own program a launcher that starts the bwrap which it names. The tool would say that
// it has begun; descriptor 3 holds up whoever makes its root.
const launcherVariable = "NEURODESKFS_TEST_BWRAP"

func TestMain(m *testing.M) {
	bwrap := os.Getenv(launcherVariable)
	if bwrap == "" {
		os.Exit(m.Run())
	}
	status, err := sandboxPlan(bwrap, "--file", "3", "/held", "--bind", "/", "/", "--", "/bin/sh", "-c", "echo begun").run()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	End(status)
}

// sandboxPlan is a plan for bwrap with these options and command.
func sandboxPlan(bwrap string, words ...string) *Exec {
	e := &Exec{Path: bwrap, Argv: []string{"bwrap", "--info-fd", "", "--block-fd", "", "--file", "", "/gate"}, feedArgs: []int{2, 4, 6}}
	for i, at := range e.feedArgs {
		e.Argv[at] = strconv.Itoa([]int{feedInfo, feedBlock, feedGate}[i])
	}
	e.options = [2]int{1, len(e.Argv) + slices.Index(words, "--")}
	e.Argv = append(e.Argv, words...)
	return e
}

func TestBwrapWithoutOptionsStartsNothing(t *testing.T) {
	need(t, "bwrap")
	for _, killed := range []bool{true, false} {
		file := filepath.Join(t.TempDir(), "made")
		s, err := startSandbox(sandboxPlan(program(t, "bwrap"), "--bind", "/", "/", "--", "/bin/sh", "-c", ">"+file), []uintptr{0, 1, 1})
		if err != nil {
			t.Fatal(err)
		}
		var status syscall.WaitStatus
		if killed { // what bwrap sees when we die at this point
			s.close()
			status, err = reap(s.outer)
		} else if err = s.setUp(nil); err == nil {
			status, _ = reap(s.tool)
		}
		if _, made := os.Stat(file); err != nil || killed != (status.ExitStatus() != 0) || killed != errors.Is(made, os.ErrNotExist) {
			t.Errorf("killed %t: error %v, status %d, file: %v", killed, err, status.ExitStatus(), made)
		}
		s.close()
	}
}

// TestAKilledStartLeavesNothing: what ends the launcher while bwrap makes the container ends that, too.
func TestAKilledStartLeavesNothing(t *testing.T) {
	need(t, "bwrap")
	slow := filepath.Join(t.TempDir(), "bwrap") // as bwrap it wants options and makes a child; it does not get on
	script := "#!/bin/sh\n[ $(wc -c </proc/self/fd/$2) -gt 0 ] || exit 1\nsleep 60 <&- & cat <&3 >/dev/null; wait\n"
	if err := os.WriteFile(slow, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for what, bwrap := range map[string]string{"loads": slow, "makes the root": program(t, "bwrap")} {
		for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGUSR1} {
			t.Run(fmt.Sprintf("%v while it %s", sig, what), func(t *testing.T) { killedEarly(t, bwrap, sig) })
		}
	}
}

// killedEarly ends a launcher whose bwrap cannot go on, then lets it. Nobody may have their standard output any more, and
// the tool may not have begun.
func killedEarly(t *testing.T, bwrap string, sig syscall.Signal) {
	hold, err := newWire(false, true)
	if err != nil {
		t.Fatal(err)
	}
	stdout, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), launcherVariable+"="+bwrap), theirs, os.Stderr
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(hold.theirs), "held")}
	if err := errors.Join(cmd.Start(), theirs.Close(), cmd.ExtraFiles[0].Close()); err != nil {
		t.Fatal(err)
	}
	hold.theirs = -1
	for range 2 { // the second returns once the first has been read
		if _, err := hold.ours.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != sig {
		t.Errorf("the launcher ended with %v", err)
	}
	hold.close()
	if err := stdout.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if said, err := io.ReadAll(stdout); err != nil || len(said) > 0 {
		t.Errorf("it goes on: %q, %v", said, err)
	}
}

// TestNobodyWaitsForEndlessOutput: what an image's environment scripts say is read up to a bound.
func TestNobodyWaitsForEndlessOutput(t *testing.T) {
	need(t, "bwrap")
	for script, fails := range map[string]bool{"printf x": false, "exec yes": true} {
		out, err := sandboxPlan(program(t, "bwrap"), "--bind", "/", "/", "--", "/bin/sh", "-c", script).output()
		if (err != nil) != fails || !fails && string(out) != "x" {
			t.Errorf("%s: %d bytes, %v", script, len(out), err)
		}
	}
}

// program is where a program lies.
func program(t *testing.T, name string) string {
	t.Helper()
	file, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return file
}
