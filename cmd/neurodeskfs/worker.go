package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/session"
)

// The files that a supervisor keeps for its workers.
const (
	keptOrder  = "order"  // what to serve: an order, JSON
	keptLedger = "ledger" // see ledger
	keptTable  = "table"  // the node table
	keptSpare  = "spare"  // where it goes on when the disk fails
	keptFrozen = "frozen" // the tree's frozen files
)

// workerSocket is the descriptor of a worker's socket.
const workerSocket = 3

func newWorker() *cobra.Command {
	return &cobra.Command{
		Use:    "worker MOUNTPOINT",
		Short:  "Serve a mount for its supervisor, which starts it",
		Hidden: true,
		Args:   usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, _ []string) error {
			return work(c.Context())
		},
	}
}

// work is a worker's whole life. Signals that are sent to all processes of a
// service or a terminal are for the supervisor, which unmounts.
func work(ctx context.Context) error {
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE)
	limitMemory()
	addProcessor()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	duty, err := session.Attend(workerSocket)
	if err != nil {
		return err
	}
	defer duty.Close()
	d, o, err := takeOrder(duty, log)
	if err == nil && duty.First {
		if err = d.prepare(ctx, o.Config); err == nil {
			d.noteShown()
		}
	}
	if err != nil {
		duty.Fail(err, exitStatus(err))
		return failure{exitStatus(err), errors.New("")} // the supervisor says it
	}
	if err := duty.Ready(); errors.Is(err, unix.EPIPE) {
		return nil // its supervisor has ended
	} else if err != nil {
		return err
	}
	stop := func() {}
	if d.resume {
		stop = d.followTable()
	}
	device, handover, err := duty.Await()
	stop()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil && d.resume {
		err = d.takeOver(ctx, o.Config)
	}
	if err != nil {
		duty.Fail(err, exitStatus(err))
		return err
	}
	return d.serveFor(duty, device, handover, o)
}

// serveFor serves until the mount is gone.
func (d *daemon) serveFor(duty *session.Duty, device *os.File, h *session.Handover, o order) error {
	d.device = device
	live := session.New(device, d.fs, session.Options{Logger: d.log, Handover: h})
	d.session.Store(live)
	go func() { d.served <- live.Serve() }()
	select {
	case <-live.Ready():
	case err := <-d.served:
		d.close()
		return err
	}
	if duty.First { // whoever is told that the mount is there may ask at once
		d.listen(o.Config.Cache)
	}
	if err := duty.Serving(); err != nil {
		d.log.Warn("the supervisor is gone; serving goes on", "err", err)
	}
	if d.resume {
		d.rest()
	}
	profiles, err := startProfiler(o.Pprof, d.log)
	if err != nil {
		d.log.Warn("no profiles are served", "err", err)
	}
	defer profiles.close()
	following := d.followAll()
	if d.resume {
		d.listen(o.Config.Cache)
	}
	d.following.Go(func() { d.awaitSupervisors(following, duty, o.Config.Cache) })
	return d.wait()
}

// takeOrder makes the daemon that the supervisor's files describe, as far as that
// needs neither cache nor network.
func takeOrder(duty *session.Duty, log *slog.Logger) (*daemon, order, error) {
	o, err := readOrder(duty.File(keptOrder))
	ledgerFile := duty.File(keptLedger)
	if err == nil && (ledgerFile == nil || duty.File(keptTable) == nil) {
		err = fmt.Errorf("the supervisor has no ledger or no node table: %w", session.ErrIncompatible)
	}
	if err != nil {
		return nil, o, err
	}
	if o.Config.Cache.Joint { // all jobs write to one log
		log = log.With("job", os.Getppid())
	}
	d := newDaemon(o.Mountpoint, log)
	d.config, d.public, d.expired, d.resume = o.Config.Digest(), o.AllowOther, o.AllowExpired, !duty.First
	d.as = o.As
	d.kept = kept{table: duty.File(keptTable), spare: duty.File(keptSpare), frozen: duty.File(keptFrozen)}
	if d.ledger, err = openLedger(ledgerFile); err != nil {
		return nil, o, err
	}
	if d.resume {
		err = d.standBy()
	}
	return d, o, err
}
