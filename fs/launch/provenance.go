package launch

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// provenanceLine is one start, as NEURODESK_PROVENANCE=FILE keeps it.
type provenanceLine struct {
	Time       string   `json:"time"` // RFC 3339, UTC
	Command    string   `json:"command"`
	Argv       []string `json:"argv"`
	Cwd        string   `json:"cwd"`
	App        string   `json:"app"`
	Version    string   `json:"version"`
	Date       string   `json:"date"`
	Image      string   `json:"image"`
	Hash       string   `json:"hash"`
	Repository string   `json:"repository"`
	Revision   uint64   `json:"revision"`
	Runtime    string   `json:"runtime"`
	Host       string   `json:"host"`
	User       string   `json:"user"`
	SlurmJobID string   `json:"slurm_job_id"`
	Exit       *int     `json:"exit"` // null: not known, the line was written when the tool started
}

// record appends one line to the file that NEURODESK_PROVENANCE names, in one write, so that lines of many processes do
// not mix. It does nothing where the variable is not set. exit is nil for a tool that takes this process's place; of a start
// that was refused it is our own status, and runtime is "" where none was chosen.
func record(runtime string, cmd Command, args []string, h Host, began time.Time, exit *int) error {
	file := h.getenv("NEURODESK_PROVENANCE")
	if file == "" {
		return nil
	}
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	line := provenanceLine{
		Time: began.UTC().Format(time.RFC3339Nano), Command: cmd.Command, Argv: append([]string{cmd.Command}, args...), Cwd: h.Cwd,
		App: cmd.App, Version: cmd.Version, Date: cmd.Date, Hash: cmd.Hash, Revision: cmd.Revision, Runtime: runtime,
		Host: host, User: h.caller().name, SlurmJobID: h.getenv("SLURM_JOB_ID"), Exit: exit,
	}
	repository, image, ok := strings.Cut(cmd.Image, ":")
	if line.Repository, line.Image = repository, image; !ok || strings.HasPrefix(cmd.Image, "/") {
		line.Repository, line.Image = "", cmd.Image // a local file
	}
	text, err := json.Marshal(line)
	if err == nil {
		err = appendLine(file, text)
	}
	if err != nil {
		return fmt.Errorf("NEURODESK_PROVENANCE: %w", err)
	}
	return nil
}

func appendLine(file string, text []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	if _, err := f.Write(append(text, '\n')); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
