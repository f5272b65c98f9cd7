package image

import (
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"log/slog"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/sylabs/sif/v2/pkg/sif"
)

// notes is a memo in memory.
type notes map[string]string

func (n notes) Get(bucket, key string) ([]byte, bool) {
	v, ok := n[bucket+" "+key]
	return []byte(v), ok
}

func (n notes) Put(bucket, key string, value []byte) { n[bucket+" "+key] = string(value) }

// TestVerdictsAreOfTheirKeyringAndRules: what the memo says of an image counts for
// the very keyring that it was compared with, and for the rules of this version.
func TestVerdictsAreOfTheirKeyringAndRules(t *testing.T) {
	ann := newKey(t, "ann")
	file := sign(t, makeSIF(t, sif.FsSquash, "hsqs and so on"), ann)
	fingerprints := sha1.Sum(ann.PrimaryKey.Fingerprint)
	memo := notes{verifyMemo + " id " + hex.EncodeToString(fingerprints[:]): `{"kind":"altered","problem":"by earlier rules"}`}
	verdict := func(src memory) error {
		s := &Images{}
		s.Verify(Verification{Keys: keyringOf(t, ann), Require: true, Memo: memo, Logger: slog.New(slog.DiscardHandler)})
		return s.verifier.verify(t.Context(), "id", "ann.sif", src, int64(len(src)))
	}
	if err := verdict(file); err != nil {
		t.Errorf("what an earlier version has noted counts: %v", err)
	}
	if err := verdict(nil); err != nil {
		t.Errorf("the verdict was not kept: %v", err)
	}
	if err := ann.RevokeKey(packet.KeyCompromised, "it was stolen", nil); err != nil {
		t.Fatal(err)
	}
	if err := verdict(file); !errors.Is(err, ErrAltered) {
		t.Errorf("with a keyring in which the key is revoked: %v", err)
	}
}
