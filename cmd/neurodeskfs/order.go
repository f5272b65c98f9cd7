package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/fs/session"
)

// order is what a worker is to do. It is fixed when the mount is made: workers to
// come must mean the same by the numbers of nodes, whatever the configuration
// file says then.
type order struct {
	Mountpoint   string         `json:"mountpoint"`
	AllowOther   bool           `json:"allow_other"`
	AllowExpired bool           `json:"allow_expired"`
	Pprof        string         `json:"pprof,omitempty"`
	As           string         `json:"as,omitempty"` // the user that root's worker is; "": whoever mounted
	Watching     watching       `json:"watching"`     // the supervisor's part
	Config       *config.Config `json:"config"`
}

// maxOrder bounds an order, bytes.
const maxOrder = 16 << 20

// readOrder reads the order that a supervisor keeps.
func readOrder(f *os.File) (o order, err error) {
	if f == nil {
		return o, fmt.Errorf("the supervisor has no order: %w", session.ErrIncompatible)
	}
	err = json.NewDecoder(io.NewSectionReader(f, 0, maxOrder)).Decode(&o)
	if err == nil && o.Config == nil {
		err = errors.New("it has no configuration")
	}
	if err != nil {
		err = fmt.Errorf("the supervisor's order: %w: %w", err, session.ErrIncompatible)
	}
	return o, err
}

// ownOrder reads an order that comes from a worker, and refuses one that was not
// made by this user's supervisor. Root's worker is another user, whom root does
// not believe: an order says what root gives away, and as whom programs run. A
// file in memory belongs to who has made it, and the seals say that nobody has
// written to it since.
func ownOrder(f *os.File) (order, error) {
	if f == nil {
		return readOrder(f)
	}
	info, err := f.Stat()
	if err != nil {
		return order{}, err
	}
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || seals&allSeals != allSeals || owner(info) != os.Geteuid() {
		return order{}, errors.New("what the worker says of its mount is not what its supervisor has told it")
	}
	return readOrder(f)
}
