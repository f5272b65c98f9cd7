package integration

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// soakVariable makes the test's own program a client of the soak: its value is
// the file that says what to do.
const soakVariable = "NEURODESKFS_SOAK"

// soakNice is how far readers and finders step back: as far as they can. There
// are 194 that never rest: as equals they would leave a start, which waits for its
// turn a hundred times, and the servers, which are in the test's own process, none
// for minutes, and nothing would be fetched, started or reloaded at all.
const soakNice = 19

// soakOrders is what a client of the soak does until its stdin ends.
type soakOrders struct {
	Dir     string            // the stable part of the tree
	Hashes  map[string]string // SHA-256 of each file in it, by path
	Entries int               // what a find of it counts
	Moving  string            // a file whose number never falls
	Command []string          // what launches, and what it prints
	Prints  string
}

// soakClient does one of three things over and over, and reports each thing that
// is not as it should be on a line. After the first round it says so, and its
// last line is the number of rounds.
func soakClient(file, role string) int {
	var o soakOrders
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	ended := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	work := map[string]func() error{"read": o.reader(), "find": o.find, "launch": o.launch}[role]
	if role != "launch" {
		unix.Setpriority(unix.PRIO_PROCESS, 0, soakNice)
	}
	for rounds := 0; ; rounds++ {
		select {
		case <-ended:
			fmt.Println("rounds", rounds)
			return 0
		default:
		}
		if err := work(); err != nil {
			fmt.Println("error", role, strings.ReplaceAll(err.Error(), "\n", "; "))
		}
		if rounds == 0 {
			fmt.Println("begun")
		}
	}
}

// reader compares a file picked at random, read from the daemon and not from the
// kernel's pages, and now and then the one that moves.
func (o *soakOrders) reader() func() error {
	var names []string
	for name := range o.Hashes {
		names = append(names, name)
	}
	last := 0
	return func() error {
		if rand.IntN(10) == 0 {
			return o.moved(&last)
		}
		name := names[rand.IntN(len(names))]
		f, err := os.Open(filepath.Join(o.Dir, name))
		if err != nil {
			return err
		}
		defer f.Close()
		unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		sum := sha256.New()
		if _, err := io.Copy(sum, f); err != nil {
			return err
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != o.Hashes[name] {
			return fmt.Errorf("%s: WRONG BYTES, hash %s, want %s", name, got, o.Hashes[name])
		}
		return nil
	}
}

// moved reads the file that each revision changes.
func (o *soakOrders) moved(last *int) error {
	b, err := os.ReadFile(o.Moving)
	if err != nil {
		return err
	}
	n := 0
	if _, err := fmt.Sscanf(string(b), "revision %d\n", &n); err != nil || n < *last {
		return fmt.Errorf("%s: WRONG BYTES: %q after revision %d", o.Moving, b, *last)
	}
	*last = n
	return nil
}

func (o *soakOrders) find() error {
	n := 0
	err := filepath.WalkDir(o.Dir, func(_ string, _ fs.DirEntry, err error) error {
		n++
		return err
	})
	if err == nil && n != o.Entries {
		err = fmt.Errorf("%d entries, want %d", n, o.Entries)
	}
	return err
}

func (o *soakOrders) launch() error {
	out, err := exec.Command(o.Command[0], o.Command[1:]...).CombinedOutput()
	if err == nil && string(out) != o.Prints {
		err = fmt.Errorf("it printed something else")
	}
	if err != nil {
		return fmt.Errorf("%v: %w: %q", o.Command, err, out)
	}
	return nil
}

// maxSoakErrors is how many errors of a client are kept: where a mount is gone, each
// round is one.
const maxSoakErrors = 1000

// soakReport reads what one client says, and closes begun when it has begun.
func soakReport(r io.Reader, begun chan<- struct{}) (rounds int, errs []string) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		if lines.Text() == "begun" {
			close(begun)
		}
		if text, ok := strings.CutPrefix(lines.Text(), "error "); ok {
			if len(errs) < maxSoakErrors {
				errs = append(errs, text)
			}
			continue
		}
		fmt.Sscanf(lines.Text(), "rounds %d", &rounds)
	}
	return rounds, errs
}
