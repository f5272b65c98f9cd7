package job

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDescendants: both ways find the same, grandchildren too, and leave out a subtree.
func TestDescendants(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sleep 60 & sh -c 'sleep 60 & echo $$ $!; wait' & wait")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	var inner, sleeper int
	if _, err := fmt.Sscan(line, &inner, &sleeper); err != nil {
		t.Fatal(err)
	}
	all := descendants(cmd.Process.Pid, 0)
	if len(all) != 3 || !slices.Contains(all, inner) || !slices.Contains(all, sleeper) {
		t.Errorf("%v lacks %d or %d", all, inner, sleeper)
	}
	if some := descendants(cmd.Process.Pid, inner); len(some) != 1 || slices.Contains(some, sleeper) {
		t.Errorf("%v has the subtree of %d", some, inner)
	}
	if got, want := childrenByStat()(inner), childrenOf(inner); !slices.Equal(got, want) || len(got) != 1 {
		t.Errorf("by stat %v, by children %v", got, want)
	}
	signalAll(append(all, cmd.Process.Pid), unix.SIGKILL)
	cmd.Wait()
	if parentOf(inner) == cmd.Process.Pid {
		t.Error("a killed process has its parent")
	}
}

// TestReadSpec: no byte more than the line is taken, for signals follow.
func TestReadSpec(t *testing.T) {
	r := strings.NewReader("{\"Mountpoint\":\"/m\",\"Program\":[\"a\\nb\"]}\n\x0f")
	s, err := readSpec(r)
	if err != nil || s.Mountpoint != "/m" || s.Program[0] != "a\nb" {
		t.Errorf("%+v, %v", s, err)
	}
	if b, err := r.ReadByte(); err != nil || b != byte(unix.SIGTERM) {
		t.Errorf("the signal is %d, %v", b, err)
	}
	if _, err := readSpec(strings.NewReader("{")); err == nil {
		t.Error("half a line is taken")
	}
}

// TestComposeRefuses: what can be made on the host is not made up in the namespace.
func TestComposeRefuses(t *testing.T) {
	if os.Getuid() == 0 {
		t.Log("root can write everywhere: the same holds")
	}
	missing := t.TempDir() + "/a/b"
	if err := compose(missing); err == nil || !strings.Contains(err.Error(), "mkdir -p "+missing) {
		t.Error(err)
	}
}
