package main

import (
	"bytes"
	"log/slog"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/fs/image"
)

// verification is what the configuration says of signatures; ok is false for
// "off". An error is one of the configuration.
func verification(c config.VerifySIF, memo cvmfs.Memo, log *slog.Logger) (v image.Verification, ok bool, err error) {
	if c.Mode == config.VerifyOff {
		return v, false, nil
	}
	keys, err := image.LoadKeyring(c.Keyring)
	if err != nil {
		return v, false, failf(exitUsage, "verify_sif: %v", err)
	}
	return image.Verification{Keys: keys, Keyring: c.Keyring, Require: c.Mode == config.VerifyRequire, Memo: memo, Logger: log}, true, nil
}

// VerifyStatus is how the PGP signatures of single-file images were found.
type VerifyStatus struct {
	Mode     string          `json:"mode"`
	Good     int             `json:"good"` // images with a good signature
	Problems []image.Problem `json:"problems"`
}

// verified is the state of a mount that verifies, nil of one that does not.
func (d *daemon) verified() *VerifyStatus {
	if d.verify == config.VerifyOff {
		return nil
	}
	v := d.images.Verified()
	return &VerifyStatus{Mode: d.verify, Good: v.Good, Problems: append([]image.Problem{}, v.Problems...)}
}

// shownProblems is how many images without a good signature the status names.
const shownProblems = 10

func (v *VerifyStatus) print(out *bytes.Buffer) {
	if v == nil {
		return
	}
	row(out, "signatures", "%s: %d images have a good one, %d do not", v.Mode, v.Good, len(v.Problems))
	for i, p := range v.Problems {
		if i == shownProblems {
			row(out, "", "... and %d more: neurodeskfs status --json", len(v.Problems)-i)
			break
		}
		row(out, "  problem", "%s: %s", p.Image, p.Text)
	}
}
