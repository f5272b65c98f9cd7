package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/fs/trace"
)

// controlled is a daemon with a cache of some objects and nothing else, and its
// control socket.
func controlled(t *testing.T, objects ...string) (*daemon, config.Cache) {
	t.Helper()
	dir := t.TempDir()
	disk, err := cache.Open(dir, cache.Options{Quota: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range objects {
		w, err := disk.Create(key, -1)
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(key))
		o, err := w.Commit()
		if err != nil {
			t.Fatal(err)
		}
		o.Close()
	}
	d := &daemon{disk: disk, traces: trace.New(trace.Options{}), log: slog.New(slog.DiscardHandler)}
	if d.control, err = d.startControl(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.close)
	return d, config.Cache{Dir: dir, Quota: 1 << 20}
}

func TestTheDaemonAnswersForItsCache(t *testing.T) {
	_, place := controlled(t, "object-one", "object-two")
	ctx := t.Context()
	var last step
	a, err := carryOut(ctx, place, controlRequest{Do: "cache verify"}, func(p step) { last = p })
	if err != nil || !strings.Contains(string(a.Data), `"checked":2`) || last.Checked != 2 || last.Objects != 2 {
		t.Errorf("%s, %v, progress %+v", a.Data, err, last)
	}
	if _, err := carryOut(ctx, place, controlRequest{Do: "cache prune", Target: -1}, nil); err == nil {
		t.Error("a negative size was taken")
	}
	if a, err = carryOut(ctx, place, controlRequest{Do: "cache clear"}, nil); err != nil || !strings.HasPrefix(a.Text, "removed 2 objects") {
		t.Errorf("%q, %v", a.Text, err)
	}
	if _, err := ask(ctx, place.Dir, controlRequest{Do: "dance"}, nil); err == nil || !strings.Contains(err.Error(), `"dance"`) {
		t.Errorf("an unknown request: %v", err)
	}
}

func TestACacheWithoutADaemonIsOpened(t *testing.T) {
	d, place := controlled(t, "object-one")
	d.close()
	a, err := carryOut(t.Context(), place, controlRequest{Do: "cache list"}, nil)
	if err != nil || !strings.Contains(string(a.Data), `"object-one"`) {
		t.Errorf("%s, %v", a.Data, err)
	}
	other, err := cache.Open(place.Dir, cache.Options{})
	if err != nil {
		t.Fatal("the cache was not given back:", err)
	}
	defer other.Close()
	// Held by somebody who answers nothing.
	if _, err := carryOut(t.Context(), place, controlRequest{Do: "cache list"}, nil); exitStatus(err) != exitBusy {
		t.Errorf("%v, status %d", err, exitStatus(err))
	}
}

func TestARequestEndsWhenItsPeerHangsUp(t *testing.T) {
	began, ended := make(chan struct{}), make(chan error, 1)
	cacheOperations["test"] = func(ctx context.Context, _ *cache.Disk, _ controlRequest, progress func(step)) (controlAnswer, error) {
		progress(step{Checked: 1})
		close(began)
		<-ctx.Done()
		ended <- ctx.Err()
		return controlAnswer{}, ctx.Err()
	}
	defer delete(cacheOperations, "test")
	d, place := controlled(t)
	defer d.close() // before the operation is taken away
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan step, 1)
	go func() {
		<-began
		<-told
		cancel()
	}()
	_, err := ask(ctx, place.Dir, controlRequest{Do: "test"}, func(p step) { told <- p })
	if err == nil {
		t.Error("an answer came")
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	dir := t.TempDir()
	for _, place := range []string{dir, filepath.Join(dir, "absent")} {
		if _, err := ask(t.Context(), place, controlRequest{Do: "reload"}, nil); !errors.Is(err, errNoDaemon) {
			t.Errorf("%s: %v", place, err)
		}
	}
	// A killed daemon's socket.
	d, place := controlled(t)
	path := filepath.Join(place.Dir, controlName)
	d.control.listener.SetUnlinkOnClose(false)
	d.close()
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t.Context(), place.Dir, controlRequest{Do: "reload"}, nil); !errors.Is(err, errNoDaemon) {
		t.Errorf("%v", err)
	}
}
