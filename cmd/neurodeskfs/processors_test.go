package main

import (
	"runtime"
	"testing"
)

func TestAddProcessor(t *testing.T) {
	was := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(was)
	for value, want := range map[string]int{"": was + 1, "7": was} { // the runtime reads it itself, when it starts
		runtime.GOMAXPROCS(was)
		t.Setenv("GOMAXPROCS", value)
		addProcessor()
		if got := runtime.GOMAXPROCS(0); got != want {
			t.Errorf("GOMAXPROCS=%q: %d, want %d", value, got, want)
		}
	}
}
