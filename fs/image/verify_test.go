package image

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/sylabs/sif/v2/pkg/integrity"
	"github.com/sylabs/sif/v2/pkg/sif"
)

// newKey is a PGP key of a person of that name.
func newKey(t testing.TB, name string) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity(name, "", name+"@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// export is the public parts of keys, armored or not, as `gpg --export` writes them.
func export(t testing.TB, armored bool, keys ...*openpgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	w := io.WriteCloser(nopCloser{&b})
	if armored {
		var err error
		if w, err = armor.Encode(&b, openpgp.PublicKeyType, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range keys {
		if err := k.Serialize(w); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// keyringOf has the public parts of keys.
func keyringOf(t testing.TB, keys ...*openpgp.Entity) Keyring {
	t.Helper()
	k, err := ParseKeyring(export(t, false, keys...))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// sign is the SIF with a signature of each key over all its groups.
func sign(t testing.TB, file memory, keys ...*openpgp.Entity) memory {
	t.Helper()
	b := sif.NewBuffer(bytes.Clone(file))
	for _, k := range keys {
		f, err := sif.LoadContainer(b)
		if err != nil {
			t.Fatal(err)
		}
		s, err := integrity.NewSigner(f, integrity.OptSignWithEntity(k))
		if err == nil {
			err = s.Sign()
		}
		if err == nil {
			err = f.UnloadContainer()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return memory(b.Bytes())
}

// signDSSE is the SIF with a signature over its first group as `apptainer sign
// --key` makes it with an x.509 key: a DSSE envelope.
func signDSSE(t testing.TB, file memory) memory {
	t.Helper()
	const envelope = `{"payloadType":"application/vnd.sylabs.sif-metadata+json","payload":"e30=","signatures":[{"keyid":"","sig":"AAAA"}]}`
	return addObject(t, file, sif.DataSignature, envelope, sif.OptNoGroup(), sif.OptLinkedGroupID(1), sif.OptSignatureMetadata(crypto.SHA256, nil))
}

// addObject is the SIF with one object more.
func addObject(t testing.TB, file memory, kind sif.DataType, content string, options ...sif.DescriptorInputOpt) memory {
	t.Helper()
	b := sif.NewBuffer(bytes.Clone(file))
	f, err := sif.LoadContainer(b)
	if err != nil {
		t.Fatal(err)
	}
	input, err := sif.NewDescriptorInput(kind, strings.NewReader(content), options...)
	if err == nil {
		err = f.AddObject(input)
	}
	if err == nil {
		err = f.UnloadContainer()
	}
	if err != nil {
		t.Fatal(err)
	}
	return memory(b.Bytes())
}

// tamper flips a bit of the file behind the first occurrence of text.
func tamper(t testing.TB, file memory, text string) memory {
	t.Helper()
	at := bytes.Index(file, []byte(text))
	if at < 0 {
		t.Fatalf("%q is not in the file", text)
	}
	file = bytes.Clone(file)
	file[at+len(text)] ^= 1
	return file
}

func TestVerifySIF(t *testing.T) {
	const content = "hsqs and so on and so forth"
	plain := makeSIF(t, sif.FsSquash, content)
	ann, ben := newKey(t, "ann"), newKey(t, "ben")
	signed := sign(t, plain, ann)
	arch, id := string(signed[45:48]), string(signed[48:60]) // of the image's UUID all but the last bytes
	for name, c := range map[string]struct {
		file    memory
		keys    Keyring
		want    error
		signers string
	}{
		"signed":                        {signed, keyringOf(t, ann), nil, "<ann@example.org>"},
		"one of the keyring's keys":     {signed, keyringOf(t, ben, ann), nil, "<ann@example.org>"},
		"signed by two":                 {sign(t, plain, ann, ben), keyringOf(t, ann, ben), nil, "<ann@example.org> <ben@example.org>"},
		"one of two is known":           {sign(t, plain, ben, ann), keyringOf(t, ann), nil, "<ann@example.org>"},
		"unsigned":                      {plain, keyringOf(t, ann), ErrUnsigned, ""},
		"unknown key":                   {signed, keyringOf(t, ben), ErrUnsigned, ""},
		"a bare squashfs":               {memory(content), keyringOf(t, ann), ErrUnsigned, ""},
		"altered content":               {tamper(t, signed, "hsqs and so"), keyringOf(t, ann), ErrAltered, ""},
		"altered signature":             {tamper(t, signed, "BEGIN PGP SIGNATURE-----\n\n"), keyringOf(t, ann), ErrAltered, ""},
		"altered message":               {tamper(t, signed, "\"digest\":\"sha256:"), keyringOf(t, ann), ErrAltered, ""},
		"one good, content altered":     {tamper(t, sign(t, plain, ben, ann), "hsqs and so"), keyringOf(t, ann), ErrAltered, ""},
		"altered header":                {tamper(t, signed, "SIF_MAGIC\x0001\x00"+arch+id), keyringOf(t, ann), ErrAltered, ""},
		"another SIF's signature":       {swapContent(t, signed, content), keyringOf(t, ann), ErrAltered, ""},
		"an empty keyring counts alike": {signed, Keyring{}, ErrUnsigned, ""},
		"by an x.509 key":               {signDSSE(t, plain), keyringOf(t, ann), ErrUnsigned, ""},
		"by an x.509 key too":           {signDSSE(t, signed), keyringOf(t, ann), nil, "<ann@example.org>"},
		"by an x.509 key before":        {sign(t, signDSSE(t, plain), ann), keyringOf(t, ann), nil, "<ann@example.org>"},
		"by both, altered content":      {tamper(t, sign(t, signDSSE(t, plain), ann), "hsqs and so"), keyringOf(t, ann), ErrAltered, ""},
	} {
		s, err := VerifySIF(t.Context(), c.file, int64(len(c.file)), c.keys)
		var names []string
		for _, who := range s.Signers {
			names = append(names, who.Name[strings.IndexByte(who.Name, '<'):])
			if len(who.Fingerprint) != 40 {
				t.Errorf("%s: fingerprint %q", name, who.Fingerprint)
			}
		}
		if !errors.Is(err, c.want) || strings.Join(names, " ") != c.signers {
			t.Errorf("%s: %q, %v, want %q, %v", name, names, err, c.signers, c.want)
		}
	}
}

// swapContent puts other bytes of the same length where content is.
func swapContent(t testing.TB, file memory, content string) memory {
	t.Helper()
	sum := sha256.Sum256([]byte(content))
	at := bytes.Index(file, []byte(content))
	if at < 0 {
		t.Fatal("no content")
	}
	file = bytes.Clone(file)
	copy(file[at+4:], sum[:16])
	return file
}

// TestVerifySIFHostile: each byte of header and descriptors, set to what libraries
// dislike, makes no good image, no panic and no endless reading.
func TestVerifySIFHostile(t *testing.T) {
	ann := newKey(t, "ann")
	signed, keys := sign(t, makeSIF(t, sif.FsSquash, "hsqs"), ann), keyringOf(t, ann)
	if _, err := VerifySIF(t.Context(), signed, int64(len(signed)), keys); err != nil {
		t.Fatal(err)
	}
	places := []int{}
	for at := 80; at < 128; at += 8 {
		places = append(places, at)
	}
	for at := 4096; at < 4096+2*descriptorSize && at+8 < len(signed); at += 7 {
		places = append(places, at)
	}
	for _, at := range places {
		for _, n := range []int64{-1, 1 << 40, 0x0101010101010101} {
			file := bytes.Clone(signed)
			binary.LittleEndian.PutUint64(file[at:], uint64(n))
			counted := &countingSource{memory: file}
			VerifySIF(t.Context(), counted, int64(len(file)), keys)
			if counted.bytes > 64*int64(len(file)) {
				t.Errorf("%d at %d: %d bytes were read of %d", n, at, counted.bytes, len(file))
			}
		}
	}
}

// countingSource counts what is read.
type countingSource struct {
	memory
	bytes int64
}

func (c *countingSource) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := c.memory.ReadAt(ctx, p, off)
	c.bytes += int64(n)
	return n, err
}

// brokenSource fails behind its first bytes.
type brokenSource struct {
	memory
	from int64
}

var errBroken = errors.New("the disk is broken")

func (b brokenSource) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off+int64(len(p)) > b.from {
		return 0, errBroken
	}
	return b.memory.ReadAt(ctx, p, off)
}

// TestVerifySIFSourceFails: that the bytes cannot be had says nothing of the image.
func TestVerifySIFSourceFails(t *testing.T) {
	ann := newKey(t, "ann")
	signed := sign(t, makeSIF(t, sif.FsSquash, strings.Repeat("hsqs", 50000)), ann)
	_, err := VerifySIF(t.Context(), brokenSource{signed, headSize}, int64(len(signed)), keyringOf(t, ann))
	if !errors.Is(err, errBroken) || errors.Is(err, ErrAltered) || errors.Is(err, ErrUnsigned) {
		t.Errorf("%v", err)
	}
}

func TestKeyrings(t *testing.T) {
	ann, ben := newKey(t, "ann"), newKey(t, "ben")
	two := append(export(t, true, ann), append([]byte("\n"), export(t, true, ben)...)...)
	for name, c := range map[string]struct {
		text []byte
		keys int // -1: refused
	}{
		"binary":             {export(t, false, ann, ben), 2},
		"armored":            {export(t, true, ann, ben), 2},
		"two armored blocks": {two, 2},
		"with a comment":     {append([]byte("our keys\n\n"), export(t, true, ann)...), 1},
		"empty":              {nil, -1},
		"text":               {[]byte("ssh-ed25519 AAAA\n"), -1},
		"cut off":            {export(t, true, ann)[:150], -1},
	} {
		file := filepath.Join(t.TempDir(), "keys")
		if err := os.WriteFile(file, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := LoadKeyring(file)
		if (err != nil) != (c.keys < 0) || err == nil && len(k.keys) != c.keys {
			t.Errorf("%s: %d keys, %v", name, len(k.keys), err)
		}
		if err != nil && !strings.Contains(err.Error(), "gpg --export") {
			t.Errorf("%s: %v does not say what to do", name, err)
		}
	}
}

// TestVerifySIFOfAHostileSignature: a packet with which the PGP library panics condemns its image, and nothing else.
func TestVerifySIFOfAHostileSignature(t *testing.T) {
	key := newKey(t, "ann")
	signed := sign(t, makeSIF(t, sif.FsSquash, "hsqs"), key)
	begin := bytes.Index(signed, []byte("-----BEGIN PGP SIGNATURE-----"))
	block, err := armor.Decode(bytes.NewReader(signed[begin:]))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(block.Body)
	at := bytes.Index(body, []byte{5, 0x82}) // a subpacket of five bytes: when it was signed
	if err != nil || at < 0 {
		t.Fatalf("%x, %v", body, err)
	}
	copy(body[at:], []byte{1, 4, 3, 100}) // one without content, and one that is private
	hostile := bytes.Clone(signed)
	payload := begin + bytes.Index(hostile[begin:], []byte("\n\n")) + 2
	for i, c := range []byte(base64.StdEncoding.EncodeToString(body)) {
		hostile[payload+i+i/64] = c // in lines
	}
	if _, err := VerifySIF(t.Context(), memory(hostile), int64(len(hostile)), keyringOf(t, key)); !errors.Is(err, ErrAltered) || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("%v", err)
	}
}

func FuzzParseKeyring(f *testing.F) {
	key := newKey(f, "ann")
	f.Add(export(f, true, key))
	f.Add(export(f, false, key))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := ParseKeyring(b); err == nil && len(k.keys) == 0 {
			t.Error("no key and no error")
		}
	})
}

func FuzzVerifySIF(f *testing.F) {
	key := newKey(f, "ann")
	f.Add([]byte(sign(f, makeSIF(f, sif.FsSquash, "hsqs"), key)))
	keys := keyringOf(f, key)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := VerifySIF(t.Context(), memory(b), int64(len(b)), keys)
		if err == nil && len(s.Signers) == 0 {
			t.Error("nobody signed it, and no error")
		}
	})
}
