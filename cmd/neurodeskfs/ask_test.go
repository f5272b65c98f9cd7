package main

import (
	"bufio"
	"errors"
	"io"
	"path/filepath"
	"testing"
)

// TestTheNextWorkerIsAsked: workers that end in mid-question cost nobody his
// answer, as long as another one comes.
func TestTheNextWorkerIsAsked(t *testing.T) {
	for _, dying := range []int{0, 1, askedWorkers - 1, askedWorkers} {
		dir := t.TempDir()
		served := make(chan error, 1)
		go func() {
			served <- func() error {
				for n := 0; n <= dying && n < askedWorkers; n++ {
					l, err := listenAlone("unix", filepath.Join(dir, controlName))
					if err != nil {
						return err
					}
					conn, err := l.Accept()
					if err != nil {
						return err
					}
					bufio.NewReader(conn).ReadString('\n')
					if n == dying {
						io.WriteString(conn, `{"text":"done"}`+"\n")
					}
					if err := errors.Join(conn.Close(), l.Close()); err != nil { // and nobody listens for a while
						return err
					}
				}
				return nil
			}()
		}()
		for { // until the first listens
			a, err := askAgain(t.Context(), dir, controlRequest{Do: "reload"})
			if errors.Is(err, errNoDaemon) {
				continue
			}
			if lost := dying == askedWorkers; lost != (err != nil) || !lost && a.Text != "done" {
				t.Errorf("%d workers end: %q, %v", dying, a.Text, err)
			}
			break
		}
		if err := <-served; err != nil {
			t.Fatal(err)
		}
	}
}
