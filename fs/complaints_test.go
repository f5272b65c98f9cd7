package fs

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestComplaintsAreMadeOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c complaints
		err := errors.New("bad object")
		expect := func(node uint64, err error, repeats int, log bool) {
			t.Helper()
			if r, l := c.again(node, err); r != repeats || l != log {
				t.Errorf("again(%d, %v) = %d, %v; want %d, %v", node, err, r, l, repeats, log)
			}
		}
		expect(1, err, 0, true)
		expect(1, err, 0, false)
		expect(1, err, 0, false)
		expect(2, err, 0, true)
		expect(1, errors.New("another object"), 0, true)
		time.Sleep(complaintPause) // in the bubble: no wait
		expect(1, err, 2, true)
		expect(1, err, 0, false)
	})
}

func TestComplaintsAreBounded(t *testing.T) {
	var c complaints
	for i := range 3 * maxComplaints {
		if _, log := c.again(1, fmt.Errorf("bad object %d", i)); !log {
			t.Fatalf("complaint %d is kept back", i)
		}
		if len(c.last) > maxComplaints {
			t.Fatalf("%d are remembered", len(c.last))
		}
	}
}
