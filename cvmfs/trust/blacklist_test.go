package trust

import (
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

func TestBlacklist(t *testing.T) {
	w := newWorld(t)
	c, err := ParseCertificate(w.cert)
	if err != nil {
		t.Fatal(err)
	}
	e := Evidence{w.manifest(hash.SHA1, manifestBody()), w.whitelist(hash.SHA1, w.whitelistBody(t, hash.SHA1)), w.cert}
	other := FormatFingerprint(hash.Sum(hash.SHA1, []byte("other")))
	for _, tc := range []struct {
		name, text string
		want       error
	}{
		{"empty", "", nil},
		{"comments", "# nothing\n\n   \t\n", nil},
		{"another certificate", other + "\n", nil},
		{"its certificate", other + "\n" + FormatFingerprint(c.Fingerprint(hash.SHA1)) + " # stolen", ErrBlacklisted},
		{"its certificate, by SHAKE-128", FormatFingerprint(c.Fingerprint(hash.SHAKE128)), ErrBlacklisted},
		{"its revision", "<r.example.org 7\n", nil},
		{"the next revision", "<r.example.org 8\n", ErrBlacklisted},
		{"the strictest line counts", "<r.example.org 8 # bad\n< r.example.org 2\n", ErrBlacklisted},
		{"another repository", "<s.example.org 99\r\n", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, err := ParseBlacklist([]byte(tc.text))
			if err != nil {
				t.Fatal(err)
			}
			p := Policy{FQRN: "r.example.org", Keys: Keys{&w.master.PublicKey}, Now: at, Blacklist: l}
			_, err = Verify(e, p)
			checkSentinel(t, err, tc.want)
		})
	}
}

func TestBlacklistRefusals(t *testing.T) {
	for _, s := range []string{"<", "<x", "<x y", "<x -1", "<x 1 2", "AA:BB", "hello", "<x 18446744073709551616", string(make([]byte, maxBlacklist+1))} {
		_, err := ParseBlacklist([]byte(s))
		checkSentinel(t, err, ErrBlacklist)
	}
}
