package session

import (
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestStartEnds: whatever becomes of the workers before one serves, Start returns,
// and leaves no mount.
func TestStartEnds(t *testing.T) {
	for mode, reason := range map[string]string{
		"flop":   "no worker comes to serve",
		"vanish": "went away",
		"idle":   "no worker comes to serve",
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			m := &supervised{dir: mountDir(t), log: new(logBuffer), mode: mode}
			var err error
			m.Supervisor, err = NewSupervisor(SupervisorOptions{
				Mount: MountOptions{Mountpoint: m.dir}, Command: m.command, StuckAfter: watchEvery,
				Logger: slog.New(slog.NewTextHandler(m.log, nil)),
			})
			if err != nil {
				t.Fatal(err)
			}
			if mode == "idle" { // the ones after it come to nothing
				time.AfterFunc(watchEvery/2, func() { m.setMode("flop") })
			}
			started := make(chan error, 1)
			go func() { started <- m.Start(t.Context()) }()
			if err := receive(t, "Start", started); err == nil || !strings.Contains(err.Error(), reason) {
				t.Errorf("%v\n%s", err, m.log)
			}
			if is, err := IsMounted(m.dir); err != nil || is {
				t.Errorf("still mounted: %v, %v", is, err)
			}
			if entries, err := os.ReadDir(m.dir); err != nil || len(entries) != 0 {
				t.Errorf("%v, %v", entries, err)
			}
		})
	}
}

// TestManySuspects: the message that tells the next worker of them is not too long,
// however many requests were under way when a worker crashed, and the one to blame
// stays among them.
func TestManySuspects(t *testing.T) {
	var list []request
	for i := range maxReaders {
		list = append(list, request{slot: i, unique: 1<<62 + uint64(2*i)})
	}
	guilty := list[len(list)-1].unique
	s := suspects{crashes: map[uint64]int{guilty: 2}}
	s.crashed(list, guilty)
	if len(s.condemned) != 1 || s.condemned[0] != guilty {
		t.Errorf("condemned: %v", s.condemned)
	}
	fd, theirs := channelPair(t)
	defer theirs.close()
	ours, err := newChannel(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.close()
	sent := make(chan error, 1)
	go func() { sent <- ours.send(message{Device: true, Suspects: s.present, Condemned: s.condemned}) }()
	m, _, err := theirs.receive()
	if err != nil || len(m.Suspects) == 0 || m.Suspects[0] != guilty {
		t.Errorf("%d suspects, %v", len(m.Suspects), err)
	}
	if err := receive(t, "the message", sent); err != nil {
		t.Error(err)
	}
}

// TestManySuspectsAreTriedSoon: requests that wait for a download do not hold up
// the others that were under way when a worker crashed, nor the one to blame.
func TestManySuspectsAreTriedSoon(t *testing.T) {
	const readers, soon = 40, 30 * time.Second
	m := supervise(t, "plain", nil)
	var slow []<-chan error
	for range readers {
		slow = append(slow, m.direct("slow"))
	}
	eventually(t, "all wait in the worker", func() bool {
		list, err := underWay(m.journal, maxReaders)
		return err == nil && len(list) >= readers
	})
	began := time.Now()
	if err := receive(t, "the deadly read", m.direct("deadly")); !errors.Is(err, unix.EIO) {
		t.Errorf("%v, want EIO", err)
	}
	if took := time.Since(began); took > soon {
		t.Errorf("it took %s", took)
	}
	close(m.stop) // those that wait never get their bytes
	m.end(t)
	for _, c := range slow {
		if receive(t, "a reader", c) == nil {
			t.Error("a reader got something")
		}
	}
}

// TestNobodyCutsWhatIsMapped: a worker that was taken over cannot end its supervisor
// by cutting off what both have mapped.
func TestNobodyCutsWhatIsMapped(t *testing.T) {
	for name, make := range map[string]func() (*os.File, error){fileBoard: newBoard, fileJournal: newJournal} {
		f, err := make()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(0); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: %v", name, err)
		}
		if err := forget(f, 1); err != nil { // which gives pages back
			t.Errorf("%s: %v", name, err)
		}
	}
}
