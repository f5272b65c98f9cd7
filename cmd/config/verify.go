package config

import (
	"errors"
	"fmt"
)

// What is made of the PGP signatures of single-file images.
const (
	VerifyOff     = "off"     // nothing
	VerifyWarn    = "warn"    // an image without a good one is told of, and used
	VerifyRequire = "require" // an image without a good one is not used
)

// VerifySIF says what is made of the PGP signatures of single-file images,
// whatever source they are in.
type VerifySIF struct {
	Mode    string `toml:"mode"`    // "off", the default; "warn"; "require"
	Keyring string `toml:"keyring"` // file of public PGP keys, armored or not
}

func (v *VerifySIF) finish() error {
	setDefault(&v.Mode, VerifyOff)
	switch {
	case v.Mode != VerifyOff && v.Mode != VerifyWarn && v.Mode != VerifyRequire:
		return fmt.Errorf("mode %q is not known: write \"off\", \"warn\" or \"require\"", v.Mode)
	case v.Mode != VerifyOff && v.Keyring == "":
		return errors.New("keyring is missing: write the file of the public keys (gpg --export --armor KEY > FILE)")
	}
	return nil
}
