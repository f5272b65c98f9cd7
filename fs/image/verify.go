package image

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/sylabs/sif/v2/pkg/integrity"
	"github.com/sylabs/sif/v2/pkg/sif"

	"github.com/neurodesk/neurodeskfs/fs/squashfs"
)

var (
	// ErrUnsigned is returned for an image that no key of the keyring has signed.
	ErrUnsigned = errors.New("no key of the keyring has signed it")
	// ErrAltered is returned for an image that is not what was signed.
	ErrAltered = errors.New("it is not what was signed")
)

const (
	maxKeyring   = 16 << 20 // bytes of a file of keys
	maxSignature = 1 << 20  // bytes of one signature in a SIF; usual ones have 2 KiB
	maxSigners   = 64       // signatures of one SIF
	clearSigned  = "-----BEGIN PGP SIGNED MESSAGE-----"
)

// Keyring is the public keys of those whose signatures count.
type Keyring struct {
	keys openpgp.EntityList
	sum  [sha1.Size]byte // of the file: a key that was revoked or renewed has the same fingerprint
}

// Signatures says whose signatures over an image are good. Each covers the SIF's
// header and the whole object group that its primary system partition is in.
type Signatures struct {
	Signers []Signer `json:"signers"`
}

// Signer is one PGP key.
type Signer struct {
	Fingerprint string `json:"fingerprint"` // of the primary key, upper-case hexadecimal
	Name        string `json:"name"`        // its first identity, such as "A. Person <a@example.org>"; it is the key's own text
}

// LoadKeyring reads a file of public PGP keys, as `gpg --export` writes it, with
// --armor or without.
func LoadKeyring(file string) (Keyring, error) {
	f, err := os.Open(file)
	if err != nil {
		return Keyring{}, fmt.Errorf("keyring: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKeyring+1))
	if err == nil && len(b) > maxKeyring {
		err = fmt.Errorf("more than %d bytes", maxKeyring)
	}
	var k Keyring
	if err == nil {
		k, err = ParseKeyring(b)
	}
	if err != nil {
		return Keyring{}, fmt.Errorf("keyring %s: %w", file, err)
	}
	return k, nil
}

// ParseKeyring is LoadKeyring of a file's content. Keys that follow each other
// as several armored blocks are all read.
func ParseKeyring(b []byte) (k Keyring, err error) {
	k.sum = sha1.Sum(b)
	const header = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
	err = sheltered(func() (err error) {
		at := bytes.Index(b, []byte(header))
		if at < 0 {
			k.keys, err = openpgp.ReadKeyRing(bytes.NewReader(b))
			return err
		}
		for _, block := range strings.Split(string(b[at:]), header)[1:] {
			keys, blockErr := openpgp.ReadArmoredKeyRing(strings.NewReader(header + block))
			k.keys, err = append(k.keys, keys...), errors.Join(err, blockErr)
		}
		return err
	})
	if err == nil && len(k.keys) == 0 {
		err = errors.New("there is no key in it")
	}
	if err != nil {
		return Keyring{}, fmt.Errorf("%w: export the public keys with: gpg --export --armor KEY", err)
	}
	return k, nil
}

// sheltered makes an error of a panic: the PGP library has some for packets that
// anybody could have written (subpackets without content, in its version 1.4.1).
func sheltered(fn func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("a PGP packet in it cannot be read: %v", v)
		}
	}()
	return fn()
}

// VerifySIF checks the PGP signatures of the SIF in src, a file of size bytes,
// against keys. It reads all of what was signed, which is the whole image.
//
// At least one signature must be good, by a key of the keyring, and cover the
// primary system partition; one by an unknown key does not count, and one that
// a known key made over something else condemns the image. Signatures by x.509
// keys, and those of before SIF 1.1 (Singularity 3.5), which do not cover the
// header, count as none. ErrUnsigned, ErrAltered, ErrRefused (no SIF) or the
// source's errors are returned.
func VerifySIF(ctx context.Context, src squashfs.Source, size int64, keys Keyring) (Signatures, error) {
	head, err := readHead(ctx, src, size)
	if err != nil {
		return Signatures{}, err
	}
	if !isSIF(head) {
		return Signatures{}, fmt.Errorf("%w: only SIF files can be signed, and this is none", ErrUnsigned)
	}
	reader := &sifReader{ctx: ctx, src: src, head: head}
	f, system, err := container(reader, size)
	if err == nil {
		err = boundObjects(f, size)
	}
	if err == nil {
		err = reader.passOver(f)
	}
	if err == nil && len(reader.zeroes) > 0 {
		f, system, err = container(reader, size)
	}
	if err != nil {
		return Signatures{}, err
	}
	s, err := verifyGroup(ctx, f, system, keys)
	if reader.err != nil {
		return Signatures{}, reader.err // the library makes all kinds of things of it
	}
	return s, err
}

// passOver has the library see no more of the signatures that PGP keys did not
// make (those of x.509 keys are DSSE envelopes): it ends at the first of them.
// Like those by unknown keys, they do not count.
func (r *sifReader) passOver(f *sif.FileImage) error {
	const used, group, offset = 4, 9, 17 // places in a descriptor
	table := make([]byte, f.DescriptorsTotal()*descriptorSize)
	if _, err := r.ReadAt(table, f.DescriptorsOffset()); err != nil {
		return err
	}
	le := binary.LittleEndian
	for i := 0; i < len(table); i += descriptorSize {
		d := table[i:]
		if sif.DataType(le.Uint32(d)) != sif.DataSignature || d[used] == 0 || le.Uint32(d[group:])&^0xf0000000 != 0 {
			continue
		}
		start := make([]byte, len(clearSigned))
		if _, err := r.ReadAt(start, int64(le.Uint64(d[offset:]))); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if string(start) != clearSigned {
			r.zeroes = append(r.zeroes, f.DescriptorsOffset()+int64(i)+used)
		}
	}
	return nil
}

// verifyGroup verifies what is in the object group of the partition system.
func verifyGroup(ctx context.Context, f *sif.FileImage, system sif.Descriptor, keys Keyring) (s Signatures, err error) {
	if system.GroupID() == 0 {
		return s, fmt.Errorf("%w: its system partition is in no object group", ErrUnsigned)
	}
	var strangers []string
	v, err := integrity.NewVerifier(f,
		integrity.OptVerifyGroup(system.GroupID()), integrity.OptVerifyWithKeyRing(keys.keys), integrity.OptVerifyWithContext(ctx),
		integrity.OptVerifyCallback(func(r integrity.VerifyResult) (ignore bool) {
			switch {
			case r.Error() == nil && slices.ContainsFunc(r.Verified(), func(d sif.Descriptor) bool { return d.ID() == system.ID() }):
				s.Signers = append(s.Signers, signer(r.Entity()))
			case errors.Is(r.Error(), pgperrors.ErrUnknownIssuer):
				strangers = append(strangers, fingerprint(r.Signature()))
				return true
			}
			return false
		}))
	if err == nil {
		err = sheltered(v.Verify)
	}
	switch {
	case errors.Is(err, &integrity.SignatureNotFoundError{}):
		return Signatures{}, fmt.Errorf("%w: it has no signature by a PGP key", ErrUnsigned)
	case err != nil:
		return Signatures{}, fmt.Errorf("%w: %w", ErrAltered, err)
	case len(s.Signers) == 0 && len(strangers) > 0:
		return Signatures{}, fmt.Errorf("%w: its signatures are by unknown keys: %s", ErrUnsigned, strings.Join(strangers, ", "))
	case len(s.Signers) == 0:
		return Signatures{}, fmt.Errorf("%w: no signature covers its system partition", ErrUnsigned)
	}
	return s, nil
}

// boundObjects refuses objects outside the file and signatures that are too
// long or too many, since the library reads them whole.
func boundObjects(f *sif.FileImage, size int64) (err error) {
	signatures := 0
	f.WithDescriptors(func(d sif.Descriptor) bool {
		switch {
		case d.Offset() < 0 || d.Size() < 0 || d.Offset() > size || d.Size() > size-d.Offset():
			err = fmt.Errorf("%w: object %d of the SIF lies outside the file of %d bytes", ErrRefused, d.ID(), size)
		case d.DataType() == sif.DataSignature:
			signatures++
			if d.Size() > maxSignature || signatures > maxSigners {
				err = fmt.Errorf("%w: its signatures are too long or too many", ErrRefused)
			}
		}
		return err != nil
	})
	return err
}

func signer(e *openpgp.Entity) Signer {
	if e == nil {
		return Signer{}
	}
	s := Signer{Fingerprint: strings.ToUpper(hex.EncodeToString(e.PrimaryKey.Fingerprint))}
	if id := e.PrimaryIdentity(); id != nil {
		s.Name = id.Name
	}
	return s
}

// fingerprint is what a signature says of the key that made it.
func fingerprint(d sif.Descriptor) string {
	_, fp, err := d.SignatureMetadata()
	if err != nil || len(fp) == 0 {
		return "?"
	}
	return strings.ToUpper(hex.EncodeToString(fp))
}
