package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// results is what a run of the tools made: file name to content.
type results map[string][]byte

// publish makes the images a signed repository, and serves it.
func (d *demo) publish(ctx context.Context) error {
	d.out.step("2. A CVMFS repository with these images, signed with new keys, served on the loopback interface")
	var err error
	if d.site, err = openSite(ctx, filepath.Join(d.root, imageCache)); err != nil {
		return fmt.Errorf("publish the images: %w", err)
	}
	d.out.say("%s: %d files, %s, which take %s as stored; the server is %s",
		fqrn, d.site.files, mebibytes(d.site.size), mebibytes(d.site.stored), d.site.server.Addr())
	return nil
}

// mountIt writes the configuration and mounts.
func (d *demo) mountIt(ctx context.Context) error {
	d.out.step("3. The mount, by the user " + d.shell.who.name)
	key := filepath.Join(d.work, fqrn+".pub")
	if err := os.WriteFile(key, d.site.key, 0o644); err != nil {
		return err
	}
	config := filepath.Join(d.work, "config.toml")
	if err := os.WriteFile(config, []byte(d.site.config(filepath.Join(d.work, "cache"), key)), 0o644); err != nil {
		return err
	}
	if _, err := d.shell.run(ctx, "cat "+config); err != nil {
		return err
	}
	if _, err := d.shell.run(ctx, "neurodeskfs mount --config "+config+" "+d.mount); err != nil {
		return err
	}
	d.out.command("export PATH=" + d.mount + "/bin:$PATH")
	d.shell.vars["PATH"] = d.mount + "/bin:" + d.shell.vars["PATH"]
	listed, err := d.shell.run(ctx, "ls "+d.mount+"/bin")
	if err != nil {
		return err
	}
	want := "dcm2niibatch dcm2niix nifti1_tool nifti_stats nifti_tool"
	if got := strings.Join(strings.Fields(listed), " "); got != want {
		return fmt.Errorf("the mount shows the commands %q, not %q", got, want)
	}
	_, err = d.shell.run(ctx, "cat $(which dcm2niix)")
	return err
}

// firstRun runs the tools when no byte of the images is here.
func (d *demo) firstRun(ctx context.Context) error {
	d.out.step("4. The tools, by their plain names, on files in the current directory")
	dicom := filepath.Join(d.shell.dir, "dicom")
	if err := os.Mkdir(dicom, 0o755); err != nil {
		return err
	}
	if err := writeDICOM(dicom); err != nil {
		return err
	}
	d.out.say("(The demo made the folder dicom: an MR series of %d slices, %d x %d, with values of which each voxel tells its place.)",
		dicomSlices, dicomColumns, dicomRows)
	var err error
	d.first, err = d.useTools(ctx, "")
	return err
}

// useTools makes an image with nifti_tool, converts the series with dcm2niix, and
// checks both. The files get the suffix.
func (d *demo) useTools(ctx context.Context, suffix string) (results, error) {
	made, series := "made"+suffix, "series"+suffix
	for _, line := range []string{
		"nifti_tool -make_im -prefix " + made + ".nii -new_dim 3 32 24 8 0 0 0 0 -new_datatype 4",
		"dcm2niix -f " + series + " -o . dicom",
	} {
		if _, err := d.shell.run(ctx, line); err != nil {
			return nil, err
		}
	}
	if err := d.header(ctx, made+".nii", "3 32 24 8"); err != nil {
		return nil, err
	}
	if err := d.header(ctx, series+".nii", fmt.Sprintf("3 %d %d %d", dicomColumns, dicomRows, dicomSlices)); err != nil {
		return nil, err
	}
	if err := d.oneVoxel(ctx, series+".nii"); err != nil {
		return nil, err
	}
	return d.collect(map[string]string{"made": made + ".nii", "series": series + ".nii", "sidecar": series + ".json"})
}

// header shows an image's dimensions and checks them.
func (d *demo) header(ctx context.Context, file, want string) error {
	shown, err := d.shell.run(ctx, "nifti_tool -disp_hdr -field dim -field datatype -infiles "+file)
	if err != nil {
		return err
	}
	for line := range strings.Lines(shown) {
		if f := strings.Fields(line); len(f) > 6 && f[0] == "dim" {
			if got := strings.Join(f[3:7], " "); got != want {
				return fmt.Errorf("%s has the dimensions %s, not %s", file, got, want)
			}
			return nil
		}
	}
	return fmt.Errorf("nifti_tool shows no dimensions of %s", file)
}

// oneVoxel checks a voxel of the converted series. dcm2niix stores a 3D series
// from left to right and from back to front; DICOM counts the other way.
func (d *demo) oneVoxel(ctx context.Context, file string) error {
	const i, j, k = 5, 7, 3
	shown, err := d.shell.run(ctx, fmt.Sprintf("nifti_tool -quiet -disp_ci %d %d %d 0 0 0 0 -infiles %s", i, j, k, file))
	if err != nil {
		return err
	}
	if got, want := strings.TrimSpace(shown), fmt.Sprint(voxel(dicomColumns-1-i, dicomRows-1-j, k)); got != want {
		return fmt.Errorf("voxel %d %d %d of %s is %s, not %s", i, j, k, file, got, want)
	}
	d.out.say("(That is the value that the demo put there.)")
	return nil
}

// collect reads what a run made.
func (d *demo) collect(files map[string]string) (results, error) {
	r := results{}
	for what, name := range files {
		b, err := os.ReadFile(filepath.Join(d.shell.dir, name))
		if err != nil {
			return nil, fmt.Errorf("a tool ended well, but did not make its file: %w", err)
		}
		r[what] = b
	}
	return r, nil
}

// status is the part of status.json that the demo looks at.
type status struct {
	Sources []struct {
		Requests       int   `json:"http_requests"`
		Bytes          int64 `json:"http_bytes"`
		Errors         int   `json:"http_errors"`
		VerifyFailures int   `json:"verify_failures"`
	} `json:"sources"`
	Index struct {
		Pending int `json:"pending"`
	} `json:"index"`
}

// readStatus asks the mount, once its index of commands is complete: reading it
// sends requests, too.
func (d *demo) readStatus(ctx context.Context) (status, error) {
	deadline := time.Now().Add(30 * time.Second)
	for {
		var s status
		text, err := d.shell.quiet(ctx, "neurodeskfs status --json "+d.mount)
		if err != nil {
			return s, err
		}
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			return s, fmt.Errorf("neurodeskfs status --json: %w", err)
		}
		switch {
		case len(s.Sources) != 1:
			return s, fmt.Errorf("status tells of %d sources, not of 1", len(s.Sources))
		case s.Index.Pending == 0:
			return s, nil
		case time.Now().After(deadline):
			return s, fmt.Errorf("%d images are not in the index of commands after 30 s", s.Index.Pending)
		}
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// showStatus shows what the first run cost, and compares with what the server saw.
func (d *demo) showStatus(ctx context.Context) error {
	d.out.step("5. What that cost")
	s, err := d.readStatus(ctx)
	if err != nil {
		return err
	}
	if _, err := d.shell.run(ctx, "neurodeskfs status "+d.mount); err != nil {
		return err
	}
	seen, net, total := d.site.server.Stats(), s.Sources[0], d.site.stored
	d.out.say("%d requests fetched %s of the %s that the two images take in the repository: %.0f %%. The rest was never read.",
		seen.Requests, mebibytes(seen.Bytes), mebibytes(total), 100*float64(seen.Bytes)/float64(total))
	switch {
	case net.Requests != seen.Requests || net.Bytes != seen.Bytes:
		return fmt.Errorf("status tells of %d requests and %d bytes, but the server saw %d and %d", net.Requests, net.Bytes, seen.Requests, seen.Bytes)
	case net.Errors != 0 || net.VerifyFailures != 0:
		return fmt.Errorf("status tells of %d failed requests and %d failed verifications", net.Errors, net.VerifyFailures)
	case seen.Requests == 0 || seen.Bytes >= total:
		return fmt.Errorf("%d requests fetched %d bytes of %d: that is not what was read", seen.Requests, seen.Bytes, total)
	}
	return nil
}

// secondRun runs the same again, from the cache.
func (d *demo) secondRun(ctx context.Context) error {
	d.out.step("6. The same again: all that is needed is here now")
	before := d.site.server.Stats().Requests
	second, err := d.useTools(ctx, "2")
	if err != nil {
		return err
	}
	after := d.site.server.Stats().Requests
	d.out.say("HTTP requests sent this time: %d. The files are the same, byte for byte.", after-before)
	if after != before {
		return fmt.Errorf("the second run sent %d requests, not 0", after-before)
	}
	for what, content := range d.first {
		if !bytes.Equal(content, second[what]) {
			return fmt.Errorf("the second run made another file (%s) than the first", what)
		}
	}
	return nil
}

// unmountIt unmounts and finds nothing left.
func (d *demo) unmountIt(ctx context.Context) error {
	d.out.step("7. The end")
	if _, err := d.shell.run(ctx, "neurodeskfs umount "+d.mount); err != nil {
		return err
	}
	if left := d.leftovers(); len(left) > 0 {
		return fmt.Errorf("after the unmount there is still %s", strings.Join(left, ", "))
	}
	return nil
}
