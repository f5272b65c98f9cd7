package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// errNoDaemon is returned by ask when nobody listens in the cache directory.
var errNoDaemon = errors.New("no daemon answers")

// ask sends a request to the daemon that holds the cache directory. progress is
// called for each line that precedes the answer. An answer with an error in it
// is returned together with that error.
func ask(ctx context.Context, cacheDir string, r controlRequest, progress func(step)) (controlAnswer, error) {
	a, err := converse(ctx, cacheDir, r, progress)
	switch {
	case errors.Is(err, os.ErrPermission):
		return a, errNotOwner
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return a, fmt.Errorf("%w on %s: %w", errNoDaemon, filepath.Join(cacheDir, controlName), err)
	case err != nil:
		return a, fmt.Errorf("the daemon does not answer on %s: %w", filepath.Join(cacheDir, controlName), err)
	case a.Error != "":
		return a, failf(exitFailure, "%s", a.Error)
	}
	return a, nil
}

// A worker that ends takes the questions with it. Its successor is there within
// moments, unless the daemon as a whole has ended.
const (
	askedWorkers    = 5
	successorWithin = 10 * time.Second
)

// askAgain is ask, of the next worker where one ends before it has answered. It is
// for requests that do no harm when they are carried out twice.
func askAgain(ctx context.Context, cacheDir string, r controlRequest) (a controlAnswer, err error) {
	var ended time.Time
	for left := askedWorkers; ; {
		a, err = ask(ctx, cacheDir, r, nil)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
			if left--; left == 0 {
				return a, err
			}
			ended = time.Now()
		case !errors.Is(err, errNoDaemon) || ended.IsZero() || time.Since(ended) > successorWithin:
			return a, err
		}
		select {
		case <-ctx.Done():
			return a, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func converse(ctx context.Context, cacheDir string, r controlRequest, progress func(step)) (controlAnswer, error) {
	path, f, err := socketIn(cacheDir, controlName)
	if err != nil {
		return controlAnswer{}, err
	}
	defer f.Close()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return controlAnswer{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return controlAnswer{}, err
	}
	for lines := json.NewDecoder(conn); ; {
		var a controlAnswer
		if err := lines.Decode(&a); err != nil {
			return a, err
		}
		if a.Progress == nil {
			return a, nil
		}
		progress(*a.Progress)
	}
}

func newReload() *cobra.Command {
	return &cobra.Command{
		Use:   "reload [MOUNTPOINT]",
		Short: "Look for new revisions now",
		Long: `Asks the servers for the newest revision of every source and returns when it is
visible. Fails with the reason when a source cannot be brought up to date.`,
		Example: "  neurodeskfs reload ~/neurodesk",
		Args:    usage(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := readAsked(optional(args))
			if err != nil {
				return err
			}
			a, err := askAgain(c.Context(), s.Cache.Dir, controlRequest{Do: "reload"})
			fmt.Fprint(c.OutOrStdout(), a.Text)
			return err
		},
	}
}
