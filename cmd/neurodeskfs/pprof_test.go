package main

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"testing"
)

func TestProfiler(t *testing.T) {
	var text bytes.Buffer
	p, err := startProfiler("127.0.0.1:0", slog.New(slog.NewTextHandler(&text, nil)))
	if err != nil {
		t.Fatal(err)
	}
	url := regexp.MustCompile(`http://\S+/debug/pprof/`).FindString(text.String())
	answer, err := http.Get(url + "heap?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	profile, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if err != nil || !bytes.HasPrefix(profile, []byte("heap profile:")) {
		t.Errorf("the heap's profile begins %.40q, %v", profile, err)
	}
	if err := p.close(); err != nil {
		t.Error(err)
	}
	if answer, err := http.Get(url); err == nil {
		answer.Body.Close()
		t.Error("it serves after close")
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestProfilerStaysAtHome(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for _, addr := range []string{"0.0.0.0:0", ":6060", "localhost:6060", "192.0.2.1:80", "[::]:0", "127.0.0.1", "x"} {
		if p, err := startProfiler(addr, log); err == nil || exitStatus(err) != exitUsage {
			p.close()
			t.Errorf("%s: %v", addr, err)
		}
	}
	if p, err := startProfiler("", log); p != nil || err != nil || p.close() != nil {
		t.Errorf("without an address: %v, %v", p, err)
	}
}
