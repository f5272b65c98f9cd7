package cvmfstest

import (
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/fstest"
)

func TestWavesAndRounds(t *testing.T) {
	for name, c := range map[string]struct {
		spans         [][2]int // Began, Ended
		waves, rounds int
	}{
		"none":                         {nil, 0, 0},
		"one":                          {[][2]int{{1, 2}}, 1, 1},
		"one after the other":          {[][2]int{{1, 2}, {3, 4}, {5, 6}}, 3, 3},
		"all at once":                  {[][2]int{{1, 5}, {2, 6}, {3, 4}}, 1, 1},
		"two, then two":                {[][2]int{{1, 3}, {2, 4}, {5, 8}, {6, 7}}, 2, 2},
		"the next before the last end": {[][2]int{{1, 3}, {2, 6}, {4, 5}}, 1, 2},
		"a chain that overlaps":        {[][2]int{{1, 3}, {2, 5}, {4, 7}, {6, 8}}, 1, 2},
		"one has not ended":            {[][2]int{{1, 0}, {2, 3}, {4, 5}}, 1, 2},
	} {
		var log []Request
		for _, s := range c.spans {
			log = append(log, Request{Began: s[0], Ended: s[1]})
		}
		if w, r := Waves(log), Rounds(log); w != c.waves || r != c.rounds {
			t.Errorf("%s: %d waves, %d rounds, want %d, %d", name, w, r, c.waves, c.rounds)
		}
	}
}

// TestWavesOfAServer asks a server for two files at once, held until both are
// there, and then for a third.
func TestWavesOfAServer(t *testing.T) {
	s, err := NewServer()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Add("r", fstest.MapFS{"f": &fstest.MapFile{Data: []byte("x")}})
	get := func() {
		resp, err := http.Get(s.RepositoryURL("r") + "/f")
		if err != nil {
			t.Error(err)
			return
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	release := make(chan struct{})
	rule := s.Inject(All, 2, Hang(release))
	var wait sync.WaitGroup
	for range 2 {
		wait.Go(get)
	}
	if err := s.Wait(t.Context(), func(st Stats) bool { return st.InFlight == 2 }); err != nil {
		t.Fatal(err)
	}
	close(release)
	wait.Wait()
	rule.Remove()
	get()
	if w, r := Waves(s.Requests()), Rounds(s.Requests()); w != 2 || r != 2 {
		t.Errorf("%d waves, %d rounds, want 2, 2: %+v", w, r, s.Requests())
	}
}
